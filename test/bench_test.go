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
// the only backend behind it, in short rounds by turns, so that both meet the same machine. It reports the
// medians of requests a second and of the client's CPU time a request, and the medians of the ratios of
// neighbouring rounds.
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

	round := func(addr string) (rate, cpu float64) {
		load, err := client.Load(b.Context(), hand.LoadOptions{Network: "tcp", Addr: addr, Workers: 1, Reset: true})
		if err != nil {
			b.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // the length of a round
		report, err := load.Stop(b.Context())
		if err != nil || report.Failures > 0 {
			b.Fatalf("%s: %d failures %v, error %v", addr, report.Failures, report.Errors, err)
		}
		n := float64(report.Requests)
		return n / report.Elapsed.Seconds(), float64(report.CPU.Nanoseconds()) / n
	}
	addrs := [2]string{"10.244.1.12:8080", clusterIPv4(10) + ":80"} // direct, service
	round(addrs[0])
	round(addrs[1]) // both warm
	for b.Loop() {
		var rates, cpus [2][]float64
		var rateRatios, cpuRatios []float64
		for i := range 200 {
			var rate, cpu [2]float64
			for turn := range 2 {
				which := (i + turn) % 2 // who goes first alternates
				rate[which], cpu[which] = round(addrs[which])
				rates[which], cpus[which] = append(rates[which], rate[which]), append(cpus[which], cpu[which])
			}
			rateRatios, cpuRatios = append(rateRatios, rate[1]/rate[0]), append(cpuRatios, cpu[1]/cpu[0])
		}
		b.ReportMetric(median(rates[0]), "direct/s")
		b.ReportMetric(median(rates[1]), "service/s")
		b.ReportMetric(median(rateRatios), "rate-ratio")
		b.ReportMetric(rateRatios[len(rateRatios)/10], "rate-ratio-p10") // median has sorted them
		b.ReportMetric(rateRatios[len(rateRatios)*9/10], "rate-ratio-p90")
		b.ReportMetric(median(cpus[0]), "direct-cpu-ns")
		b.ReportMetric(median(cpus[1]), "service-cpu-ns")
		b.ReportMetric(median(cpuRatios), "cpu-ratio")
	}
}

func median(list []float64) float64 {
	sort.Float64s(list)
	return list[len(list)/2]
}
