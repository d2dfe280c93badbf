package metrics

import (
	"io"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const zpageWarning = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n"

func askFor(t *testing.T, method, url, accept string) (code int, contentType, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header.Get("Content-Type"), string(text)
}

// The bytes are what kube-proxy v1.36.3 answered, but for whom they are about, and times. It draws what stands
// between name and value from a hat; here it is one of those.
func TestZpages(t *testing.T) {
	url := serve(t, New("", ""), Pages{Version: "v1.2.3", Flags: map[string]string{"v": "0", "cluster-cidr": "", "bind-address": "0.0.0.0"}}, quiet)
	times := strings.NewReplacer(runtime.Version(), "GO")
	started := regexp.MustCompile(`\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \w+ \d{4}`)
	startTime := regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	up := regexp.MustCompile(`0 hr 00 min \d\d sec|"uptimeSeconds":\d+`)
	const (
		plain     = "text/plain; charset=utf-8"
		flagsText = "\nsvcproxy flagz\n" + zpageWarning + "bind-address:0.0.0.0\ncluster-cidr:\nv:0\n"
		status    = "\nsvcproxy statusz\n" + zpageWarning + `
Started: TIME
Up: UP
Go version: GO
Binary version: 1.2.3
Emulation version: 1.36
Paths: /configz /flagz /healthz /metrics /proxyMode
`
		flagzKind   = "application/json;g=config.k8s.io;v=v1beta1;as=Flagz"
		statuszKind = "application/json;g=config.k8s.io;v=v1beta1;as=Statusz"
		flagsJSON   = `{"kind":"Flagz","apiVersion":"config.k8s.io/v1beta1","metadata":{"name":"svcproxy"},"flags":{"bind-address":"0.0.0.0","cluster-cidr":"","v":"0"}}` + "\n"
		statusJSON  = `{"kind":"Statusz","apiVersion":"config.k8s.io/v1beta1","metadata":{"name":"svcproxy"},"startTime":"TIME",UP,"goVersion":"GO","binaryVersion":"1.2.3","emulationVersion":"1.36","paths":["/configz","/flagz","/healthz","/metrics","/proxyMode"]}` + "\n"
	)
	for _, tc := range []struct {
		path, accept      string
		code              int
		contentType, body string
	}{
		{"/flagz", "", 200, plain, flagsText},
		{"/flagz", "text/plain", 200, plain, flagsText},
		{"/flagz", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 200, plain, flagsText},
		{"/flagz", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz", 200, flagzKind, flagsJSON},
		{"/flagz", "application/json", 406, plain, ""},
		{"/flagz", "application/json;v=v1beta1;g=config.k8s.io;as=Statusz", 406, plain, ""},
		{"/statusz", "*/*", 200, plain, status},
		{"/statusz", statuszKind, 200, statuszKind, statusJSON},
		{"/statusz", "image/png", 406, plain, ""},
	} {
		code, contentType, body := askFor(t, http.MethodGet, url+tc.path, tc.accept)
		body = times.Replace(body)
		body = startTime.ReplaceAllString(started.ReplaceAllString(up.ReplaceAllString(body, "UP"), "TIME"), "TIME")
		if tc.code == http.StatusNotAcceptable {
			body = ""
		}
		if diff := cmp.Diff([]any{tc.code, tc.contentType, tc.body}, []any{code, contentType, body}); diff != "" {
			t.Errorf("%s for %q: -want +got\n%s", tc.path, tc.accept, diff)
		}
	}
}

// /metrics/slis counts what /healthz has answered; DELETE begins anew.
func TestSLIs(t *testing.T) {
	url := serve(t, New("", ""), Pages{}, quiet)
	counted := func() (lines string) {
		t.Helper()
		code, contentType, body := askFor(t, http.MethodGet, url+"/metrics/slis", "")
		if code != 200 || !strings.HasPrefix(contentType, "text/plain; version=0.0.4") {
			t.Errorf("%d, %s:\n%s", code, contentType, body)
		}
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, "kubernetes_") {
				lines += line
			}
		}
		return lines
	}
	if code, _, body := askFor(t, http.MethodDelete, url+"/metrics/slis", ""); code != 200 {
		t.Fatalf("DELETE: %d, %s", code, body)
	}
	for range 3 {
		get(t, url+"/healthz")
	}
	want := `kubernetes_healthcheck{name="ping",type="healthz"} 1
kubernetes_healthchecks_total{name="ping",status="success",type="healthz"} 3
`
	if diff := cmp.Diff(want, counted()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	askFor(t, http.MethodDelete, url+"/metrics/slis", "")
	if got := counted(); got != "" {
		t.Errorf("after DELETE:\n%s", got)
	}
}
