package metrics

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewMux returns the paths of the metrics port (by default 127.0.0.1:10249), for a health.Server to serve.
// To be called once. Callers may add paths.
func (m *Metrics) NewMux(profiling bool, log *slog.Logger) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(prometheus.Gatherers{m.registry, restClient{}}, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, // one unreadable map must not hide everything else
		ErrorLog:      errorLog{log},
		Registry:      m.registry, // counts those errors
	}))
	// Says nothing of the data path: that is the health port's.
	mux.HandleFunc("/healthz", text("ok"))
	// Never iptables: tools that see that look for iptables' counters.
	mux.HandleFunc("/proxyMode", text("ebpf"))
	if profiling {
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

// JSON answers with body; for the path /configz.
func JSON(body []byte) http.HandlerFunc { return fixed("application/json", body) }

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
