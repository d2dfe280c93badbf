package metrics

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/component-base/metrics/prometheus/slis"
)

// Pages is what the metrics port says beside the metrics.
type Pages struct {
	Configz   []byte            // JSON
	Flags     map[string]string // by name
	Version   string
	Profiling bool
}

// NewMux returns the paths of the metrics port (by default 127.0.0.1:10249), for a health.Server to serve.
// To be called once.
func (m *Metrics) NewMux(p Pages, log *slog.Logger) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(prometheus.Gatherers{m.registry, restClient{}}, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, // one unreadable map must not hide everything else
		ErrorLog:      errorLog{log},
		Registry:      m.registry, // counts those errors
	}))
	slis.SLIMetricsWithReset{}.Install(mux) // /metrics/slis
	// Says nothing of the data path: that is the health port's.
	ok := text("ok")
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		_ = slis.ObserveHealthcheck(r.Context(), "ping", "healthz", slis.Success) // has no error to return
		ok(w, r)
	})
	// Never iptables: tools that see that look for iptables' counters.
	mux.HandleFunc("/proxyMode", text("ebpf"))
	mux.HandleFunc("/configz", fixed("application/json", p.Configz))
	mux.Handle("/flagz", flagz(p.Flags))
	mux.Handle("/statusz", statusz(p.Version, []string{"/configz", "/flagz", "/healthz", "/metrics", "/proxyMode"}))
	if p.Profiling {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// text answers with body, without a newline as kube-proxy does.
func text(body string) http.HandlerFunc { return fixed("text/plain; charset=utf-8", []byte(body)) }

func fixed(contentType string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(body)
	}
}

// errorLog is how promhttp reports what it could not collect.
type errorLog struct{ log *slog.Logger }

func (l errorLog) Println(v ...any) {
	l.log.Error("metrics left out of a scrape", "error", fmt.Sprint(v...))
}
