package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// loadStep is how many requests each load makes before the agent is killed, while it is dead, and after
// it has come back.
const loadStep = 300

// demoLoad is requests made all the time, by new connections.
type demoLoad struct {
	from, frontend string
	load           *hand.Load
}

// killAgent kills node-a's agent under load, starts it again, and shows that nobody noticed.
func killAgent(ctx context.Context, d *demo) error {
	if _, err := d.setBackends(ctx, everyone...); err != nil {
		return err
	}
	node := d.Nodes[0]
	loads := []*demoLoad{{from: "pod-a2", frontend: "10.96.0.10:80"}, {from: "client-1", frontend: "172.30.0.11:30080"}}
	for _, l := range loads {
		var err error
		if l.load, err = d.hosts[l.from].Load(ctx, hand.LoadOptions{
			Network: "tcp", Addr: l.frontend, Workers: 2, Reset: true, Pause: time.Millisecond,
		}); err != nil {
			return err
		}
	}
	if err := moreRequests(ctx, loads); err != nil {
		return err
	}
	agent := d.agents[node.Name]
	if err := agent.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the agent: %w", err)
	}
	<-agent.Done()
	killed := time.Now()
	if err := moreRequests(ctx, loads); err != nil {
		return err
	}
	dead, began := time.Since(killed), time.Now()
	if err := d.startAgent(node); err != nil {
		return err
	}
	if err := d.awaitAgent(ctx, node); err != nil {
		return err
	}
	ready := time.Since(began)
	if err := moreRequests(ctx, loads); err != nil {
		return err
	}
	d.out.head("FROM", "ASKS", "ANSWERED", "NOT ANSWERED")
	for _, l := range loads {
		report, err := l.load.Stop(ctx)
		if err != nil {
			return err
		}
		problem := ""
		if report.Failures > 0 {
			problem = fmt.Sprintf("none should have failed: %s", report.Errors[0])
		}
		d.out.row(problem, l.from, "tcp "+l.frontend, fmt.Sprintf("%d requests", report.Requests), fmt.Sprint(report.Failures))
	}
	writes, err := tableWrites(ctx, node)
	if err != nil {
		return err
	}
	problem := ""
	if writes != 0 {
		problem = "should have found everything in place"
	}
	d.out.head("NODE", "AGENT WAS DEAD FOR", "AND READY AFTER", "TABLE ENTRIES IT WROTE THEN")
	d.out.row(problem, node.Name, fmt.Sprintf("%.2f s", dead.Seconds()), fmt.Sprintf("%.2f s", ready.Seconds()), fmt.Sprint(writes))
	return nil
}

// moreRequests returns when each load has had loadStep more outcomes.
func moreRequests(ctx context.Context, loads []*demoLoad) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, l := range loads {
		first := -1
		err := testenv.Eventually(ctx, func(ctx context.Context) error {
			report, err := l.load.Report(ctx)
			if err != nil {
				return err
			}
			count := report.Requests + report.Failures
			if first < 0 {
				first = count
			}
			if count-first < loadStep {
				return fmt.Errorf("only %d requests from %s ended", count-first, l.from)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
