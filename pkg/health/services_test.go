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
	s := NewServices(healthy, quiet)
	s.SetAddresses(addrs)
	t.Cleanup(s.Close)
	return s
}

func mustSync(t testing.TB, s *Services, changes ...Check) {
	t.Helper()
	for name, err := range s.Sync(changes) {
		t.Fatalf("%s: %v", name, err)
	}
}

// askService returns status and weight at an address, or the error.
func askService(host string, p uint16) string {
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
			mustSync(t, s, Check{web, p, Count{IPv4: tt.count}})
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
	mustSync(t, s, Check{web, p, Count{IPv4: 3}})
	if got := askService("127.0.0.1", p) + ", " + askService("::1", p); got != "200 weight 3, 503 weight 0" {
		t.Error(got)
	}
}

// the wildcards do not get in each other's way.
func TestServiceWildcards(t *testing.T) {
	p := freePort(t)
	s := newServices(t, nil, netip.IPv4Unspecified(), netip.IPv6Unspecified())
	mustSync(t, s, Check{web, p, Count{IPv4: 1, IPv6: 2}})
	if got := askService("127.0.0.1", p) + ", " + askService("::1", p); got != "200 weight 1, 200 weight 2" {
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
			got = append(got, askService("127.0.0.1", p))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	one, two := Count{IPv4: 1}, Count{IPv4: 2}
	mustSync(t, s, Check{web, p1, Count{}}, Check{mail, p2, two}, Check{Service: endpoints.ObjectName{Name: "unknown"}})
	expect("opened", "503 weight 0", "200 weight 2", "refused")
	mustSync(t, s, Check{web, p1, one})
	expect("one changed", "200 weight 1", "200 weight 2", "refused")
	mustSync(t, s)
	expect("none changed", "200 weight 1", "200 weight 2", "refused")
	healthy.Store(false)
	expect("ill", "503 weight 1", "503 weight 2", "refused")
	healthy.Store(true)
	mustSync(t, s, Check{web, p3, two})
	expect("port changed", "refused", "200 weight 2", "200 weight 2")
	mustSync(t, s, Check{mail, p3, one}, Check{web, p2, two})
	expect("ports exchanged", "refused", "200 weight 2", "200 weight 1")
	mustSync(t, s, Check{Service: web}, Check{mail, p2, one})
	expect("the port passes to another Service", "refused", "200 weight 1", "refused")
	s.Close()
	expect("closed", "refused", "refused", "refused")
}

func TestServicePortTaken(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	p, free := uint16(taken.Addr().(*net.TCPAddr).Port), freePort(t)
	s := newServices(t, nil, loop4, loop6)
	both := Count{1, 1}
	failed := s.Sync([]Check{{web, p, both}, {mail, free, both}})
	if err := failed[web]; len(failed) != 1 || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "ns/web") {
		t.Errorf("failed: %v, want only ns/web, address in use", failed)
	}
	if got := askService("127.0.0.1", free) + ", " + askService("::1", p); got != "200 weight 1, 200 weight 1" {
		t.Errorf("the other Service, and the other family: %s", got)
	}
	if failed := s.Sync(nil); len(failed) != 1 || failed[web] == nil {
		t.Errorf("tried again: %v, want ns/web to fail", failed)
	}
	taken.Close()
	mustSync(t, s)
	if got := askService("127.0.0.1", p); got != "200 weight 1" {
		t.Errorf("after the port became free: %s", got)
	}
}

// A connection that a load balancer keeps open ends with the Service.
func TestServiceCloseEndsConnections(t *testing.T) {
	p := freePort(t)
	s := newServices(t, nil, loop4)
	mustSync(t, s, Check{web, p, Count{}})
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	resp, err := client.Get("http://127.0.0.1:" + port(p))
	must(t, err)
	_, err = io.Copy(io.Discard, resp.Body) // read to the end: the client keeps the connection
	must(t, err)
	resp.Body.Close()
	mustSync(t, s, Check{Service: web})
	if _, err := client.Get("http://127.0.0.1:" + port(p)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want connection refused", err)
	}
}

// A port that passes from Service to Service is free at once.
func TestServicePortPasses(t *testing.T) {
	p := freePort(t)
	s := newServices(t, nil, loop4)
	for i := range 500 {
		name := func(i int) endpoints.ObjectName {
			return endpoints.ObjectName{Namespace: "ns", Name: strconv.Itoa(i)}
		}
		mustSync(t, s, Check{Service: name(i), Port: p}, Check{Service: name(i - 1)})
	}
}

// live: what listens on addresses that stay is not touched.
func TestServiceAddressesChange(t *testing.T) {
	p := freePort(t)
	s := newServices(t, nil, loop4)
	mustSync(t, s, Check{web, p, Count{1, 2}})
	expect := func(what, want string) {
		t.Helper()
		if got := askService("127.0.0.1", p) + ", " + askService("127.0.0.2", p) + ", " + askService("::1", p); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	expect("one address", "200 weight 1, refused, refused")
	s.SetAddresses([]netip.Addr{loop4, loop6})
	mustSync(t, s)
	expect("another added", "200 weight 1, refused, 200 weight 2")
	s.SetAddresses([]netip.Addr{netip.MustParseAddr("127.0.0.2")})
	expect("all gone", "refused, refused, refused")
	mustSync(t, s)
	expect("a third", "refused, 200 weight 1, refused")
	none := netip.MustParseAddr("192.0.2.1")
	s.SetAddresses([]netip.Addr{loop4, none})
	if failed := s.Sync(nil); !errors.Is(failed[web], syscall.EADDRNOTAVAIL) {
		t.Errorf("an address that the node does not have: %v", failed)
	}
	expect("does not keep the others away", "200 weight 1, refused, refused")
}
