package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// updaters keep as many updates on their way as a busy API server takes.
const updaters = 16

// churn updates slices of Services that nobody asks for: one endpoint leaves, another comes.
type churn struct {
	cancel  context.CancelFunc
	running sync.WaitGroup
	done    atomic.Int64
	errs    [updaters]error
	once    sync.Once
	err     error
}

// startChurn makes rate updates a second, if the API server lets it, until it is stopped.
func (b *bench) startChurn(ctx context.Context, rate int) *churn {
	going, cancel := context.WithCancel(ctx)
	c := &churn{cancel: cancel}
	if rate == 0 {
		return c
	}
	begin := time.Now()
	order := b.rand.Perm(b.population)
	var next atomic.Int64
	for w := range updaters {
		c.running.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				due := begin.Add(time.Duration(n) * time.Second / time.Duration(rate))
				select {
				case <-going.Done():
					return
				case <-time.After(time.Until(due)):
				}
				slice := fillerSlice(order[n%len(order)], n/len(order)%2 == 0)
				if _, err := b.client.DiscoveryV1().EndpointSlices(slice.Namespace).Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
					c.errs[w] = err
					return
				}
				c.done.Add(1)
			}
		})
	}
	return c
}

// stop ends it and returns how many updates there were.
func (c *churn) stop() (int, error) {
	c.once.Do(func() {
		c.cancel()
		c.running.Wait()
		c.err = errors.Join(c.errs[:]...)
	})
	return int(c.done.Load()), c.err
}
