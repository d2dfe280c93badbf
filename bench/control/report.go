package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is the JSON file.
type report struct {
	Machine string    `json:"machine"`
	Began   time.Time `json:"began"`
	Seed    uint64    `json:"seed"`
	Seconds float64   `json:"seconds"` // that it all took
	Results []result  `json:"results"`
}

// result is one variant on one node. Times are seconds, memory bytes.
type result struct {
	Variant  string  `json:"variant"`
	Version  string  `json:"version"`
	Services int     `json:"services"`
	Start    float64 `json:"start"`    // of the process until all probes answer
	StartCPU float64 `json:"startCPU"` // until it rests
	RSS      int64   `json:"rss"`      // then
	PeakRSS  int64   `json:"peakRSS"`
	Kernel   int64   `json:"kernel"` // tables
	Phases   []phase `json:"phases"`
}

// phase is changes under one rate of churn.
type phase struct {
	Rate      int       `json:"rate"`    // wanted
	Seconds   float64   `json:"seconds"` // it took
	Updates   int       `json:"updates"` // there were, changes included
	CPU       float64   `json:"cpu"`     // of the proxy
	Latencies []float64 `json:"latencies"`
	OwnP50    float64   `json:"ownP50,omitempty"` // event decoded → kernel written, as the agent's metrics say
	OwnP99    float64   `json:"ownP99,omitempty"`
}

func (p *phase) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(p.Latencies))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

// cpuPerThousand is the proxy's CPU time for a thousand updates.
func (p *phase) cpuPerThousand() float64 { return p.CPU * 1000 / float64(p.Updates) }

func (r *result) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s with %d Services: start %.2f s (CPU %.2f s), RSS %.0f MiB, kernel %.1f MiB", r.Variant, r.Services, r.Start, r.StartCPU, mib(r.RSS), mib(r.Kernel))
	for i := range r.Phases {
		p := &r.Phases[i]
		fmt.Fprintf(&s, "; at %d/s (%.0f/s) p50 %.1f p99 %.1f ms", p.Rate, float64(p.Updates)/p.Seconds, 1e3*p.quantile(0.5), 1e3*p.quantile(0.99))
	}
	return s.String()
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// table prints the medians of all rounds.
func (r *report) table(out io.Writer) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "Services\tproxy\tstart s\tstart CPU s\tRSS MiB\tpeak\tkernel MiB\tchurn\tchanges\tp50 ms\tp90\tp99\town p50 ms\town p99\tCPU s / 1,000 updates\t")
	type key struct {
		services int
		variant  string
	}
	groups := map[key][]*result{}
	var order []key
	for i := range r.Results {
		k := key{r.Results[i].Services, r.Results[i].Variant}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], &r.Results[i])
	}
	slices.SortStableFunc(order, func(a, b key) int { return a.services - b.services })
	for _, k := range order {
		list := groups[k]
		of := func(f func(*result) float64) float64 { return median(list, f) }
		for i := range churns {
			in := func(f func(*phase) float64) float64 {
				return median(list, func(r *result) float64 { return f(&r.Phases[i]) })
			}
			if i == 0 {
				fmt.Fprintf(t, "%d\t%s\t%.2f\t%.2f\t%.0f\t%.0f\t%.1f\t", k.services, k.variant,
					of(func(r *result) float64 { return r.Start }), of(func(r *result) float64 { return r.StartCPU }),
					of(func(r *result) float64 { return mib(r.RSS) }), of(func(r *result) float64 { return mib(r.PeakRSS) }),
					of(func(r *result) float64 { return mib(r.Kernel) }))
			} else {
				fmt.Fprint(t, "\t\t\t\t\t\t\t")
			}
			fmt.Fprintf(t, "%.0f/s\t%.0f\t%.1f\t%.1f\t%.1f\t", in(func(p *phase) float64 { return float64(p.Updates) / p.Seconds }),
				in(func(p *phase) float64 { return float64(len(p.Latencies)) }),
				in(func(p *phase) float64 { return 1e3 * p.quantile(0.5) }), in(func(p *phase) float64 { return 1e3 * p.quantile(0.9) }),
				in(func(p *phase) float64 { return 1e3 * p.quantile(0.99) }))
			if in(func(p *phase) float64 { return p.OwnP99 }) > 0 {
				fmt.Fprintf(t, "%.2f\t%.2f\t", in(func(p *phase) float64 { return 1e3 * p.OwnP50 }), in(func(p *phase) float64 { return 1e3 * p.OwnP99 }))
			} else {
				fmt.Fprint(t, "\t\t")
			}
			fmt.Fprintf(t, "%.2f\t\n", in((*phase).cpuPerThousand))
		}
	}
	t.Flush()
	fmt.Fprintf(out, "%s\nseed %d, %.0f s; 10 endpoints a Service, times from outside: API call returned → a new connection is at the new backend\n", r.Machine, r.Seed, r.Seconds)
	versions := map[string]bool{}
	for _, result := range r.Results {
		if line := result.Variant + ": " + result.Version; !versions[line] {
			versions[line] = true
			fmt.Fprintln(out, line)
		}
	}
}

func median(list []*result, f func(*result) float64) float64 {
	var values []float64
	for _, r := range list {
		values = append(values, f(r))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
