package health

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

const patience = 10 * time.Second

var quiet = slog.New(slog.DiscardHandler)

// freePort returns a port of 127.0.0.1 that nobody has at the moment.
func freePort(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get asks anew each time: no connection is kept.
func get(url string) (*http.Response, string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(url)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// eventually polls until ok says so.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func run(t testing.TB, s *Server) (cancel func(), done <-chan error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(stop)
	return stop, ended
}

func wait(t testing.TB, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatal("Run does not return")
		return nil
	}
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })

// somebody has the port; when it is free again we answer.
func TestServerTriesAgain(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &Server{Name: "test", Address: taken.Addr().String(), Handler: hello, Log: quiet, retry: time.Millisecond}
	cancel, done := run(t, s)
	taken.Close()
	eventually(t, "an answer", func() bool {
		_, body, err := get("http://" + s.Address)
		return err == nil && body == "hello"
	})
	cancel()
	if err := wait(t, done); err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, _, err := get("http://" + s.Address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the end: %v, want connection refused", err)
	}
}

func TestServerHardFail(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	_, done := run(t, &Server{Name: "proxy health", Address: taken.Addr().String(), Handler: hello, HardFail: true, Log: quiet})
	err = wait(t, done)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "proxy health on "+taken.Addr().String()) {
		t.Errorf("Run: %v, want EADDRINUSE that names server and address", err)
	}
}

func TestServerWithoutAddress(t *testing.T) {
	_, done := run(t, &Server{Name: "test", HardFail: true, Log: quiet})
	if err := wait(t, done); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// 0.0.0.0 is both families.
func TestServerBothFamilies(t *testing.T) {
	_, port, _ := net.SplitHostPort(func() string {
		l, err := net.Listen("tcp", "0.0.0.0:0")
		must(t, err)
		defer l.Close()
		return l.Addr().String()
	}())
	run(t, &Server{Name: "test", Address: "0.0.0.0:" + port, Handler: hello, Log: quiet, retry: time.Millisecond})
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		eventually(t, "an answer at "+host, func() bool {
			_, body, err := get("http://" + host + ":" + port)
			return err == nil && body == "hello"
		})
	}
}

// A request in progress is answered before Run returns.
func TestServerClosesGracefully(t *testing.T) {
	started, finish := make(chan struct{}), make(chan struct{})
	s := &Server{Name: "test", Address: "127.0.0.1:0", Log: quiet, retry: time.Millisecond,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(started)
			<-finish
			_, _ = io.WriteString(w, "late")
		})}
	s.Address = "127.0.0.1:" + port(freePort(t))
	cancel, done := run(t, s)
	var conn net.Conn
	eventually(t, "a connection", func() (ok bool) {
		c, err := net.Dial("tcp", s.Address)
		conn = c
		return err == nil
	})
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	must(t, err)
	<-started
	cancel()
	eventually(t, "refusal of new connections", func() bool {
		c, err := net.Dial("tcp", s.Address)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	close(finish)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	if body, _ := io.ReadAll(resp.Body); string(body) != "late" {
		t.Errorf("body %q", body)
	}
	if err := wait(t, done); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestServerLimitsHeaders(t *testing.T) {
	s := &Server{Name: "test", Address: "127.0.0.1:" + port(freePort(t)), Handler: hello, Log: quiet, retry: time.Millisecond}
	run(t, s)
	eventually(t, "an answer", func() bool { _, _, err := get("http://" + s.Address); return err == nil })
	req, err := http.NewRequest(http.MethodGet, "http://"+s.Address, nil)
	must(t, err)
	req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d, want 431", resp.StatusCode)
	}
}
