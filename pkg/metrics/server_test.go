package metrics

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func serve(t testing.TB, m *Metrics, p Pages, log *slog.Logger) string {
	t.Helper()
	server := httptest.NewServer(m.NewMux(p, log))
	t.Cleanup(server.Close)
	return server.URL
}

func get(t testing.TB, url string) (*http.Response, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

var quiet = slog.New(slog.DiscardHandler)

func TestTexts(t *testing.T) {
	url := serve(t, New("", ""), Pages{}, quiet)
	for path, want := range map[string]string{"/healthz": "ok", "/proxyMode": "ebpf"} {
		resp, body := get(t, url+path)
		if resp.StatusCode != 200 || body != want {
			t.Errorf("%s: %d %q, want 200 %q", path, resp.StatusCode, body, want)
		}
		if h := resp.Header; h.Get("Content-Type") != "text/plain; charset=utf-8" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: header %v", path, h)
		}
	}
}

func TestProfilingOnlyWhenAsked(t *testing.T) {
	for profiling, want := range map[bool]int{false: 404, true: 200} {
		url := serve(t, New("", ""), Pages{Profiling: profiling}, quiet)
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline"} {
			if resp, _ := get(t, url+path); resp.StatusCode != want {
				t.Errorf("profiling %t, %s: %d, want %d", profiling, path, resp.StatusCode, want)
			}
		}
	}
}

// What cannot be read is left out, logged and counted; everything else is there.
func TestScrape(t *testing.T) {
	m, d := newUsed()
	var logs bytes.Buffer
	url := serve(t, m, Pages{}, slog.New(slog.NewTextHandler(&logs, nil)))
	scrape := func(what string, wants map[string]bool) {
		t.Helper()
		resp, body := get(t, url+"/metrics")
		if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
			t.Errorf("%s: status %d, header %v", what, resp.StatusCode, resp.Header)
		}
		for line, want := range wants {
			if strings.Contains("\n"+body, "\n"+line) != want {
				t.Errorf("%s: line %q: present %t, want %t", what, line, !want, want)
			}
		}
	}
	always := func(lines map[string]bool) map[string]bool {
		lines[`svcproxy_table_writes_total{table="slots"} 13`] = true
		lines[`kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.001"} 1`] = true
		lines[`go_goroutines `] = true
		lines[`process_open_fds `] = true
		return lines
	}
	scrape("all well", always(map[string]bool{
		`svcproxy_datapath_events_total{event="connect"} 5`: true,
		`svcproxy_table_entries{table="frontends"} 3`:       true,
		`svcproxy_build_info{go_version="`:                  true,
	}))
	d.counters["connect"] = 6
	scrape("read anew", always(map[string]bool{`svcproxy_datapath_events_total{event="connect"} 6`: true}))

	d.err = errors.New("map has gone")
	scrape("unreadable", always(map[string]bool{"svcproxy_datapath_events_total{": false, "svcproxy_table_entries{": false}))
	for _, want := range []string{"read data path counters: map has gone", "read table sizes: map has gone"} {
		if !strings.Contains(logs.String(), want) {
			t.Errorf("log does not say %q:\n%s", want, logs.String())
		}
	}
	d.err = nil
	scrape("readable again", always(map[string]bool{
		`svcproxy_datapath_events_total{event="connect"} 6`:         true,
		`promhttp_metric_handler_errors_total{cause="gathering"} 1`: true,
	}))
}
