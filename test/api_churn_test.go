package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

const (
	churnServices = 300
	churnWorkers  = 4 // each has the Services whose number leaves its own as remainder
	churnTime     = 4 * time.Second
)

// Many Services at once, then random changes to them; a Service that nobody touches never fails, and in the
// end the tables say what agents say that have seen nothing of it.
func TestAPIChurn(t *testing.T) {
	c := newAPICluster(t)
	c.startAgents(t)
	stable := c.create(t, apiserver.NewService("stable", corev1.ServiceTypeNodePort, tcpPort("tcp")), backends(c.pod(0, 0), c.pod(1, 0))...)
	for _, n := range c.Nodes {
		answered(t, n.Pods[1], "tcp", clusterAddrs(stable, 80)[0], c.pod(0, 0).Name, c.pod(1, 0).Name)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	churns := make([]*churn, churnWorkers)
	for i := range churns {
		churns[i] = &churn{apiCluster: c, worker: i, rand: rand.New(rand.NewPCG(seed, uint64(i))), services: map[int]*corev1.Service{}}
	}
	t.Cleanup(func() { inParallel(t, churns, func(c *churn) error { return c.removeAll(context.Background()) }) })

	begin := time.Now()
	inParallel(t, churns, func(c *churn) error { return c.createAll(t.Context()) })
	t.Logf("%d services created in %v", churnServices, time.Since(begin))
	begin = time.Now()
	for _, churn := range churns {
		for _, s := range churn.services {
			for i, addr := range clusterAddrs(s, 80) {
				from := c.Nodes[i].Pods[1]
				eventually(t, s.Name, func(ctx context.Context) error {
					_, err := request(ctx, from, "tcp", addr)
					return err
				})
			}
		}
	}
	t.Logf("all of them dialled in %v", time.Since(begin))

	var l loads
	for _, addr := range clusterAddrs(stable, 80) {
		l.start(t, c.pod(0, 1).Host, "tcp", addr, false)
		l.start(t, c.pod(0, 1).Host, "tcp", addr, true)
	}
	for _, addr := range nodeAddrs(c.Nodes[0], stable.Spec.Ports[0].NodePort) {
		l.start(t, c.Clients[0].Host, "tcp", addr, false)
		l.start(t, c.Clients[0].Host, "tcp", addr, true)
	}
	end := time.Now().Add(churnTime)
	inParallel(t, churns, func(c *churn) error {
		for time.Now().Before(end) && t.Context().Err() == nil {
			if err := c.step(t.Context()); err != nil {
				return err
			}
		}
		return nil
	})
	changes := 0
	for _, churn := range churns {
		changes += churn.changes
	}
	l.stop(t)

	fresh := newAPICluster(t)
	fresh.startAgents(t)
	for i, n := range c.Nodes {
		var want, got string
		eventually(t, "tables of "+n.Name, func(context.Context) error {
			if want, got = meaning(t, fresh.Nodes[i]), meaning(t, n); want != got {
				return errors.New("differ from a fresh agent's (-want +got):\n" + cmp.Diff(want, got))
			}
			return nil
		})
	}
	t.Logf("%d changes; tables of %d services are a fresh agent's", changes, len(kernelTables(t, c.Nodes[0]).Services))
}

// inParallel runs f for each and fails the test if one fails.
func inParallel(t *testing.T, churns []*churn, f func(*churn) error) {
	t.Helper()
	errs := make([]error, len(churns))
	var running sync.WaitGroup
	for i, c := range churns {
		running.Go(func() { errs[i] = f(c) })
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// churn makes random changes to its Services.
type churn struct {
	*apiCluster
	worker   int
	rand     *rand.Rand
	services map[int]*corev1.Service // by number; nil: deleted
	changes  int
}

func (c *churn) createAll(ctx context.Context) error {
	for number := c.worker; number < churnServices; number += churnWorkers {
		if err := c.add(ctx, number, 3); err != nil {
			return err
		}
	}
	return nil
}

func (c *churn) removeAll(ctx context.Context) error {
	for number := range c.services {
		if err := c.drop(ctx, number, true); err != nil {
			return err
		}
	}
	return nil
}

// step changes one Service.
func (c *churn) step(ctx context.Context) error {
	c.changes++
	number := c.worker + churnWorkers*c.rand.IntN(churnServices/churnWorkers)
	s := c.services[number]
	if s == nil {
		return c.add(ctx, number, c.rand.IntN(4))
	}
	switch c.rand.IntN(8) {
	case 0:
		return c.drop(ctx, number, true)
	case 1: // its slices stay
		return c.drop(ctx, number, false)
	case 2:
		return c.change(ctx, number, func(s *corev1.Service) {
			s.Spec.Ports[0].Name = fmt.Sprintf("port-%d", c.rand.IntN(2))
		})
	case 3:
		return c.change(ctx, number, func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeClusterIP, 0
			s.Spec.ExternalTrafficPolicy = ""
			if c.rand.IntN(2) == 0 {
				s.Spec.Type = corev1.ServiceTypeNodePort
				s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			}
		})
	}
	return apiserver.SetBackends(ctx, c.admin, s, c.choose(c.rand.IntN(5))...)
}

func (c *churn) add(ctx context.Context, number, backends int) error {
	s, err := apiserver.CreateService(ctx, c.admin,
		apiserver.NewService(fmt.Sprintf("churn-%d", number), corev1.ServiceTypeClusterIP, tcpPort("port-0")), c.choose(backends)...)
	c.services[number] = s
	return err
}

func (c *churn) drop(ctx context.Context, number int, withSlices bool) error {
	name := fmt.Sprintf("churn-%d", number)
	c.services[number] = nil
	err := c.admin.CoreV1().Services(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		err = nil
		if withSlices {
			err = c.admin.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).DeleteCollection(ctx, metav1.DeleteOptions{},
				metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
		}
	}
	return err
}

// change updates a Service.
func (c *churn) change(ctx context.Context, number int, edit func(*corev1.Service)) error {
	s := c.services[number].DeepCopy()
	edit(s)
	s.ResourceVersion = ""
	s, err := c.admin.CoreV1().Services(s.Namespace).Update(ctx, s, metav1.UpdateOptions{})
	if err == nil {
		c.services[number] = s
	}
	return err
}

func (c *churn) choose(n int) []apiserver.Backend {
	var pods []*testenv.Pod
	for _, node := range c.Nodes {
		pods = append(pods, node.Pods...)
	}
	var list []apiserver.Backend
	for _, i := range c.rand.Perm(len(pods))[:min(n, len(pods))] {
		b := apiserver.PodBackend(pods[i])
		if c.rand.IntN(4) == 0 && n != 3 {
			b = terminating(pods[i])
		}
		list = append(list, b)
	}
	return list
}
