package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// churns are the rates, in updates of slices a second, under which changes are measured after being measured alone.
var churns = []int{0, 50, 1000}

// fewest changes are measured in each phase, however long they take.
const fewest = 3

// measure starts a variant on a fresh node and takes all its figures.
func (b *bench) measure(ctx context.Context, v variant, size int) (_ *result, err error) {
	dir, err := testenv.TempDir()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	w, err := b.newWorld(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for _, p := range b.probes {
		if err := b.move(ctx, p, 0); err != nil {
			return nil, err
		}
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := b.server.WriteKubeconfig(kubeconfig, apiserver.Admin.Name); err != nil {
		return nil, err
	}
	cmd, err := v.command(w.node, kubeconfig, dir)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	defer func() {
		if err != nil {
			text, _ := os.ReadFile(log.Name()) // better half an error than none
			err = fmt.Errorf("%w; the log ends\n%s", err, text[max(0, len(text)-2000):])
		}
	}()

	r := &result{Variant: v.name, Version: v.version, Services: size}
	begin := time.Now()
	p, err := w.node.Start(cmd)
	if err != nil {
		return nil, err
	}
	for _, probe := range b.probes { // the last, too
		answered, err := w.await(ctx, probe, 0)
		if err != nil {
			return nil, err
		}
		r.Start = answered.Sub(begin).Seconds()
	}
	cpu, err := b.rest(ctx, p)
	if err != nil {
		return nil, err
	}
	r.StartCPU = cpu.Seconds()
	if r.RSS, err = kilobytes(status(p), "VmRSS"); err != nil {
		return nil, err
	}
	for _, rate := range churns {
		phase, err := b.phaseOf(ctx, w, v, p, rate)
		if err != nil {
			return nil, err
		}
		r.Phases = append(r.Phases, *phase)
	}
	if r.PeakRSS, err = kilobytes(status(p), "VmHWM"); err != nil {
		return nil, err
	}
	r.Kernel, err = v.kernel(w, p)
	return r, err
}

func status(p *testenv.Process) string { return fmt.Sprintf("/proc/%d/status", p.PID()) }

// rest waits until a process does nothing more than it does all the time, and returns the CPU time it has used.
func (b *bench) rest(ctx context.Context, p *testenv.Process) (time.Duration, error) {
	const window = time.Second
	before, err := cpuTime(p.PID())
	for begin := time.Now(); err == nil && time.Since(begin) < patience; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(window):
		}
		var now time.Duration
		if now, err = cpuTime(p.PID()); now-before < window/20 {
			return now, err
		}
		before = now
	}
	return before, err
}

// phaseOf measures changes for a while, under rate updates a second of other Services.
func (b *bench) phaseOf(ctx context.Context, w *world, v variant, p *testenv.Process, rate int) (*phase, error) {
	churn := b.startChurn(ctx, rate)
	defer churn.stop()
	before, err := cpuTime(p.PID())
	if err != nil {
		return nil, err
	}
	own, err := v.ownShare(ctx, w)
	if err != nil {
		return nil, err
	}
	r := &phase{Rate: rate}
	begin := time.Now()
	for len(r.Latencies) < fewest || time.Since(begin) < b.phase {
		latency, err := b.change(ctx, w)
		if err != nil {
			return nil, err
		}
		r.Latencies = append(r.Latencies, latency.Seconds())
		pause := v.pace
		if rate > 0 {
			pause = b.phase / 100 // it is busy anyway
		}
		time.Sleep(time.Duration((0.5 + b.rand.Float64()) * float64(pause)))
	}
	r.Seconds = time.Since(begin).Seconds()
	updates, err := churn.stop()
	if err != nil {
		return nil, err
	}
	after, err := cpuTime(p.PID())
	if err != nil {
		return nil, err
	}
	r.Updates = updates + len(r.Latencies)
	r.CPU = (after - before).Seconds()
	if own != nil {
		now, err := v.ownShare(ctx, w)
		if err != nil {
			return nil, err
		}
		r.OwnP50, r.OwnP99 = now.since(own).quantile(0.5), now.since(own).quantile(0.99)
	}
	return r, nil
}

// change moves a probe to the other pod, and returns how long after the API call a connection got there.
func (b *bench) change(ctx context.Context, w *world) (time.Duration, error) {
	p := b.probes[b.rand.IntN(len(b.probes))]
	to := 1 - p.at
	type outcome struct {
		at  time.Time
		err error
	}
	seen := make(chan outcome, 1)
	go func() {
		at, err := w.await(ctx, p, to)
		seen <- outcome{at, err}
	}()
	err := b.move(ctx, p, to)
	returned := time.Now()
	o := <-seen
	return max(0, o.at.Sub(returned)), errors.Join(err, o.err)
}
