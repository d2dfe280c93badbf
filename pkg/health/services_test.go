package health

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

var (
	web   = endpoints.ObjectName{Namespace: "ns", Name: "web"}
	mail  = endpoints.ObjectName{Namespace: "ns", Name: "mail"}
	loop4 = netip.MustParseAddr("127.0.0.1")
	loop6 = netip.MustParseAddr("::1")
)

func port(p uint16) string { return strconv.Itoa(int(p)) }

func newServices(t testing.TB, healthy func() bool, addrs ...netip.Addr) *Services {
	s := NewServices(addrs, healthy, quiet)
	t.Cleanup(s.Close)
	return s
}

func mustSync(t testing.TB, s *Services, ports map[endpoints.ObjectName]uint16) {
	t.Helper()
	for name, err := range s.SyncServices(ports) {
		t.Fatalf("%s: %v", name, err)
	}
}

// check is status and weight at an address, or the error.
func check(host string, p uint16) string {
	resp, _, err := get(fmt.Sprintf("http://%s/any/path", net.JoinHostPort(host, port(p))))
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "refused"
	}
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d weight %s", resp.StatusCode, resp.Header.Get("X-Load-Balancing-Endpoint-Weight"))
}

// byte for byte.
func TestServiceAnswers(t *testing.T) {
	tests := []struct {
		name    string
		count   int
		healthy bool
		status  int
		body    string
	}{
		{"endpoints", 2, true, 200, "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"},
		{"no endpoints", 0, true, 503, "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 0,\n\t\"serviceProxyHealthy\": true\n}"},
		{"ill", 2, false, 503, "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": false\n}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := freePort(t)
			s := newServices(t, func() bool { return tt.healthy }, loop4)
			mustSync(t, s, map[endpoints.ObjectName]uint16{web: p})
			s.SyncEndpoints(map[endpoints.ObjectName]Count{web: {IPv4: tt.count}})
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				req, err := http.NewRequest(method, "http://127.0.0.1:"+port(p)+"/any/path?x", nil)
				must(t, err)
				resp, err := http.DefaultClient.Do(req)
				must(t, err)
				body := make([]byte, 1024)
				n, _ := resp.Body.Read(body)
				resp.Body.Close()
				if resp.StatusCode != tt.status {
					t.Errorf("%s: status %d, want %d", method, resp.StatusCode, tt.status)
				}
				if diff := cmp.Diff(tt.body, string(body[:n])); diff != "" {
					t.Errorf("%s: body (-want +got):\n%s", method, diff)
				}
				want := http.Header{"Content-Type": {"application/json"}, "X-Content-Type-Options": {"nosniff"},
					"X-Load-Balancing-Endpoint-Weight": {strconv.Itoa(tt.count)}, "Content-Length": {strconv.Itoa(len(tt.body))}}
				resp.Header.Del("Date")
				if diff := cmp.Diff(want, resp.Header); diff != "" {
					t.Errorf("%s: header (-want +got):\n%s", method, diff)
				}
			}
		})
	}
}

// each family has its own listener and its own count.
func TestServiceFamilies(t *testing.T) {
	p := freePort(t)
	s := newServices(t, nil, loop4, loop6) // nobody to ask for health
	mustSync(t, s, map[endpoints.ObjectName]uint16{web: p})
	s.SyncEndpoints(map[endpoints.ObjectName]Count{web: {IPv4: 3}})
	if got := check("127.0.0.1", p) + ", " + check("::1", p); got != "200 weight 3, 503 weight 0" {
		t.Error(got)
	}
}

// the wildcards do not get in each other's way.
func TestServiceWildcards(t *testing.T) {
	p := freePort(t)
	s := newServices(t, nil, netip.IPv4Unspecified(), netip.IPv6Unspecified())
	mustSync(t, s, map[endpoints.ObjectName]uint16{web: p})
	s.SyncEndpoints(map[endpoints.ObjectName]Count{web: {IPv4: 1, IPv6: 2}})
	if got := check("127.0.0.1", p) + ", " + check("::1", p); got != "200 weight 1, 200 weight 2" {
		t.Error(got)
	}
}

//
func TestServiceSync(t *testing.T) {
	p1, p2, p3 := freePort(t), freePort(t), freePort(t)
	var healthy atomic.Bool
	healthy.Store(true)
	s := newServices(t, healthy.Load, loop4)
	expect := func(what string, want ...string) {
		t.Helper()
		var got []string
		for _, p := range []uint16{p1, p2, p3} {
			got = append(got, check("127.0.0.1", p))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	type ports = map[endpoints.ObjectName]uint16
	mustSync(t, s, ports{web: p1, mail: p2})
	expect("no counts yet", "503 weight 0", "503 weight 0", "refused")
	s.SyncEndpoints(map[endpoints.ObjectName]Count{web: {IPv4: 1}, mail: {IPv4: 2}, {Name: "unknown"}: {IPv4: 9}})
	expect("counts", "200 weight 1", "200 weight 2", "refused")
	mustSync(t, s, ports{web: p1, mail: p2})
	expect("the same Services keep their counts", "200 weight 1", "200 weight 2", "refused")
	healthy.Store(false)
	expect("ill", "503 weight 1", "503 weight 2", "refused")
	healthy.Store(true)
	mustSync(t, s, ports{web: p3, mail: p2})
	expect("port changed", "refused", "200 weight 2", "503 weight 0")
	s.SyncEndpoints(map[endpoints.ObjectName]Count{web: {IPv4: 1}})
	expect("missing from the counts", "refused", "503 weight 0", "200 weight 1")
	mustSync(t, s, ports{mail: p3})
	expect("the port passes to another Service", "refused", "refused", "503 weight 0")
	s.Close()
	expect("closed", "refused", "refused", "refused")
}

func TestServicePortTaken(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	p, free := uint16(taken.Addr().(*net.TCPAddr).Port), freePort(t)
	s := newServices(t, nil, loop4, loop6)
	want := map[endpoints.ObjectName]uint16{web: p, mail: free}
	failed := s.SyncServices(want)
	if err := failed[web]; len(failed) != 1 || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "ns/web") {
		t.Errorf("failed: %v, want only ns/web, address in use", failed)
	}
	s.SyncEndpoints(map[endpoints.ObjectName]Count{web: {1, 1}, mail: {1, 1}})
	if got := check("127.0.0.1", free) + ", " + check("::1", p); got != "200 weight 1, 200 weight 1" {
		t.Errorf("the other Service, and the other family: %s", got)
	}
	taken.Close()
	mustSync(t, s, want)
	s.SyncEndpoints(map[endpoints.ObjectName]Count{web: {1, 1}})
	if got := check("127.0.0.1", p); got != "200 weight 1" {
		t.Errorf("after the port became free: %s", got)
	}
}

// A connection that a load balancer keeps open ends with the Service.
func TestServiceCloseEndsConnections(t *testing.T) {
	p := freePort(t)
	s := newServices(t, nil, loop4)
	mustSync(t, s, map[endpoints.ObjectName]uint16{web: p})
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	resp, err := client.Get("http://127.0.0.1:" + port(p))
	must(t, err)
	_, err = io.Copy(io.Discard, resp.Body) // read to the end: the client keeps the connection
	must(t, err)
	resp.Body.Close()
	mustSync(t, s, nil)
	if _, err := client.Get("http://127.0.0.1:" + port(p)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want connection refused", err)
	}
}

// A port that passes from Service to Service is free at once.
func TestServicePortPasses(t *testing.T) {
	p := freePort(t)
	s := newServices(t, nil, loop4)
	for i := range 500 {
		mustSync(t, s, map[endpoints.ObjectName]uint16{{Namespace: "ns", Name: strconv.Itoa(i)}: p})
	}
}
