package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// lifeCluster is two nodes with two serving pods each, a client, and a folder of manifests in which the
// Service "web", number 10 and NodePort 30080, leads to a pod of each node.
func lifeCluster(t *testing.T) (c *testenv.Cluster, dir string) {
	t.Helper()
	c = testenv.MustNew(t, testenv.Options{Nodes: 2, PodsPerNode: 2, Clients: 1})
	servePods(t, c)
	dir = t.TempDir()
	s := service("web", 10, 30080)
	manifest(t, dir, "web.yaml", append([]any{s}, slices(s, backends(c.Nodes[0].Pods[0], c.Nodes[1].Pods[0])...)...)...)
	return c, dir
}

func webAddrs() []string { return []string{clusterIPv4(10) + ":80", "[" + clusterIPv6(10) + "]:80"} }

// whoever ends the agent, when and how often, no request fails and no connection ends.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node := c.Nodes[0]
	a := startAgent(t, node, "--manifests", dir)
	var l loads
	l.startAll(t, node.Pods[1].Host, webAddrs()...)
	l.start(t, node.Host, "tcp", webAddrs()[0], false)
	l.startAll(t, c.Clients[0].Host, nodeAddrs(node, 30080)...)
	l.each(t, 10)

	const times = 3
	restart := func(name string, end func()) {
		t.Helper()
		end()
		l.each(t, 3) // nobody is at home
		a = startAgent(t, node, "--manifests", dir)
		l.each(t, 3)
		requests := l.check(t)
		if t.Failed() {
			t.Fatalf("after %s", name)
		}
		t.Logf("%d requests until after %s", requests, name)
	}
	for range times {
		restart("SIGTERM", func() { a.stop(t) })
		if n := a.writes(t); n != 0 {
			t.Errorf("%v writes though nothing has changed", n)
		}
	}
	for range times {
		restart("SIGKILL", func() { a.Kill() })
		if n := a.writes(t); n != 0 {
			t.Errorf("%v writes though nothing has changed", n)
		}
	}

	// At each step of its start, on the way to having done everything again.
	for _, step := range []string{"msg=starting", "msg=kernel", "uplinks found", "packet programs attached", "msg=serving"} {
		restart("SIGKILL at "+step, func() {
			a.Kill()
			a = launchAgent(t, node, "--manifests", dir)
			a.logged(t, step)
			a.Kill()
		})
	}

	stopChurn := churnManifests(t, dir, c)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 2 * times {
		written := a.writes(t) + float64(1+random.IntN(300))
		restart("SIGKILL while writing", func() {
			eventually(t, "writes", func(context.Context) error {
				if n := a.writes(t); n < written {
					return fmt.Errorf("%v of %v writes", n, written)
				}
				return nil
			})
			a.Kill()
		})
	}
	stopChurn()
	// What all that has left is what an agent makes that begins with nothing.
	restart("the end of the churn", func() { a.stop(t) })
	l.stop(t)
	got := meaning(t, node)
	a.stop(t)
	command(t, node, "cleanup")
	startAgent(t, node, "--manifests", dir)
	if diff := cmp.Diff(meaning(t, node), got); diff != "" {
		t.Errorf("tables after all that (-of an agent that begins with nothing +got):\n%s", diff)
	}
}

// churnManifests changes Services that are not under load, all the time until the returned function is called.
func churnManifests(t *testing.T, dir string, c *testenv.Cluster) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for round := 0; ctx.Err() == nil; round++ {
			for file := range 4 {
				var objects []any
				for i := range 25 {
					number := 100 + file*25 + i
					s := service(fmt.Sprintf("churn-%d", number), uint8(number), 31000+int32(number))
					objects = append(objects, s)
					var behind []*testenv.Pod
					for j, pod := range []*testenv.Pod{c.Nodes[0].Pods[0], c.Nodes[0].Pods[1], c.Nodes[1].Pods[0], c.Nodes[1].Pods[1]} {
						if (round+number)>>j&1 == 1 {
							behind = append(behind, pod)
						}
					}
					objects = append(objects, slices(s, backends(behind...)...)...)
				}
				manifest(t, dir, fmt.Sprintf("churn-%d.yaml", file), objects...)
			}
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}
