package test

import (
	"sort"
	"testing"
	"time"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// BenchmarkClusterIP measures TCP connect + request + close from a pod, through a ClusterIP and straight to
// the only backend behind it, in turn, so that both meet the same machine. It reports the medians of requests
// a second and the median of the ratios of neighbouring rounds.
func BenchmarkClusterIP(b *testing.B) {
	c := testenv.MustNew(b, testenv.Options{Nodes: 1, PodsPerNode: 2})
	client, server := c.Nodes[0].Pods[0], c.Nodes[0].Pods[1]
	if _, err := server.ServeAll(b.Context(), serverPort); err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	s := service("web", 10, 30080)
	manifest(b, dir, "web.yaml", append([]any{s}, slices(s, apiserver.PodBackend(server))...)...)
	startAgent(b, c.Nodes[0], "--manifests", dir)

	round := func(addr string) float64 {
		load, err := client.Load(b.Context(), hand.LoadOptions{Network: "tcp", Addr: addr, Workers: 1, Reset: true})
		if err != nil {
			b.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond) // the length of a round
		report, err := load.Stop(b.Context())
		if err != nil || report.Failures > 0 {
			b.Fatalf("%s: %d failures %v, error %v", addr, report.Failures, report.Errors, err)
		}
		return float64(report.Requests) / report.Elapsed.Seconds()
	}
	direct, service := "10.244.1.12:8080", clusterIPv4(10)+":80"
	round(direct)
	round(service) // both warm
	for b.Loop() {
		var rates [2][]float64
		var ratios []float64
		for range 20 {
			d, s := round(direct), round(service)
			rates[0], rates[1], ratios = append(rates[0], d), append(rates[1], s), append(ratios, s/d)
		}
		b.ReportMetric(median(rates[0]), "direct/s")
		b.ReportMetric(median(rates[1]), "service/s")
		b.ReportMetric(median(ratios), "service:direct")
		b.ReportMetric(ratios[0], "ratio-min") // median has sorted them
		b.ReportMetric(ratios[len(ratios)-1], "ratio-max")
	}
}

func median(list []float64) float64 {
	sort.Float64s(list)
	return list[len(list)/2]
}
