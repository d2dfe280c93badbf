package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// What client-go counts is there under the names that dashboards ask for, and nothing else of Kubernetes' own
// registry, which has the Go runtime's metrics too: twice would make a scrape fail.
func TestRestClient(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer api.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: api.URL})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.RESTClient().Get().AbsPath("/here").Do(context.Background()).Error(); err == nil {
		t.Fatal("no error from a teapot")
	}
	response, body := get(t, serve(t, New("v1", "r"), Pages{}, slog.New(slog.DiscardHandler))+"/metrics")
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", response.Status, body)
	}
	host := strings.TrimPrefix(api.URL, "http://")
	for _, want := range []string{
		`rest_client_requests_total{code="418",host="` + host + `",method="GET"} 1`,
		`rest_client_request_duration_seconds_count{host="` + host + `",verb="GET"} 1`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no line %s in\n%s", want, body)
		}
	}
	if n := strings.Count(body, "# TYPE go_goroutines "); n != 1 {
		t.Errorf("go_goroutines is there %d times", n)
	}
}

func TestConfigzPage(t *testing.T) {
	response, body := get(t, serve(t, New("", ""), Pages{Configz: []byte(`{"a":1}`)}, quiet)+"/configz")
	if got := response.Header.Get("Content-Type") + " " + response.Header.Get("X-Content-Type-Options") + " " + body; got != `application/json nosniff {"a":1}` {
		t.Error(got)
	}
}
