// Command control measures the control path of svcproxy and of kube-proxy side by side: how long after an API
// call a new connection reaches the new backend, alone and under churn, how long a start takes, and what
// it costs in memory and CPU. Everything is real: etcd, kube-apiserver, the proxies' binaries, connections
// of a pod. Every figure has one definition, is taken from outside, and is written to a JSON file.
//
// The machine is a node of network namespaces with three pods; two of them answer for the Services that
// are measured, at ten addresses each, and the third asks. The other Services are only there.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

func main() {
	testenv.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/control:", err)
		os.Exit(1)
	}
}

// options are what may be different in another run.
type options struct {
	sizes    []int
	large    bool
	binaries []string
	modes    []string
	rounds   int
	phase    time.Duration
	seed     uint64
	out      string
}

func run(ctx context.Context) error {
	var o options
	flags := pflag.NewFlagSet("control", pflag.ExitOnError)
	flags.IntSliceVar(&o.sizes, "sizes", []int{10, 1000, 10000}, "numbers of Services, ascending")
	flags.BoolVar(&o.large, "large", false, "50,000 Services too")
	flags.StringSliceVar(&o.binaries, "svcproxy", []string{"bin/svcproxy"}, "svcproxy binaries; several are compared")
	flags.StringSliceVar(&o.modes, "kube-proxy", []string{"nftables", "iptables"}, "modes of kube-proxy; empty: none")
	flags.IntVar(&o.rounds, "rounds", 1, "how often each is measured, by turns")
	flags.DurationVar(&o.phase, "phase", 8*time.Second, "how long changes are measured: alone, and under each churn")
	flags.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of the order of changes")
	flags.StringVar(&o.out, "out", "bench/results/control.json", "file for the raw results")
	_ = flags.Parse(os.Args[1:]) // exits on errors
	if o.large {
		o.sizes = append(o.sizes, 50000)
	}
	variants, err := variants(ctx, o)
	if err != nil {
		return err
	}
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	fmt.Println(b.report.Machine)
	for _, size := range o.sizes {
		if err := b.populate(ctx, size); err != nil {
			return fmt.Errorf("create %d Services: %w", size, err)
		}
		for round := range o.rounds {
			for i := range variants {
				v := variants[(i+round)%len(variants)] // who goes first alternates
				if size > v.limit {
					b.say("%d Services: %s left out: it takes minutes for each change", size, v.name)
					continue
				}
				r, err := b.measure(ctx, v, size)
				if err != nil {
					return fmt.Errorf("%s with %d Services: %w", v.name, size, err)
				}
				b.report.Results = append(b.report.Results, *r)
				b.say("%s", r)
			}
		}
	}
	b.report.Seconds = time.Since(b.begun).Seconds()
	b.report.table(os.Stdout)
	return b.report.write(o.out)
}

func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
