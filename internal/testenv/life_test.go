package testenv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

func TestProcess(t *testing.T) {
	c := testenv.MustNew(t, testenv.Options{Nodes: 1})
	node := c.Nodes[0]
	var out bytes.Buffer
	cmd := exec.Command("/bin/sh", "-c", `readlink /proc/self/ns/net; grep ^0: /proc/self/cgroup; echo "$WORD"; exit 3`)
	cmd.Env = []string{"WORD=hello"}
	cmd.Stdout = &out
	p, err := node.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.Wait(t.Context()); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("process ended with %v, want exit status 3", err)
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", node.HandPID()))
	if err != nil {
		t.Fatal(err)
	}
	cgroup := "0::/" + filepath.Join(filepath.Base(filepath.Dir(node.Cgroup)), node.Name)
	if diff := cmp.Diff(strings.Join([]string{namespace, cgroup, "hello", ""}, "\n"), out.String()); diff != "" {
		t.Errorf("namespace, cgroup and environment (-want +got):\n%s", diff)
	}

	p, err = node.Start(exec.Command("/bin/sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("process ended with %v, want SIGTERM", err)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to an ended process: %v, want os.ErrProcessDone", err)
	}
}

// The parent's own sockets inside a host's namespace: a listener, an HTTP client, a forward that is cut.
func TestSocketsOfParent(t *testing.T) {
	c := testenv.MustNew(t, testenv.Options{Nodes: 1, Clients: 1})
	node, client := c.Nodes[0], c.Clients[0]
	listener, err := node.Listen("127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "fine") })}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })

	// On another host's loopback, the node's server.
	forward, err := client.Forward("127.0.0.1:81", func(ctx context.Context) (net.Conn, error) {
		return node.DialContext(ctx, "tcp", "127.0.0.1:80")
	})
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: client.DialContext}
	defer transport.CloseIdleConnections()
	get := func() (string, error) {
		response, err := (&http.Client{Transport: transport}).Get("http://127.0.0.1:81/")
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	if body, err := get(); body != "fine" || err != nil {
		t.Errorf("through the forward: %q, %v", body, err)
	}
	forward.Close() // the kept-alive connection too
	if _, err := get(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("through the closed forward: %v, want ECONNREFUSED", err)
	}
	if _, err := client.DialContext(t.Context(), "tcp", "localhost:81"); err == nil {
		t.Error("a name was resolved outside of the namespace")
	}
}

func TestLoad(t *testing.T) {
	ctx := t.Context()
	c := testenv.MustNew(t, testenv.Options{Nodes: 1, PodsPerNode: 2})
	backend, client := c.Nodes[0].Pods[0], c.Nodes[0].Pods[1]
	mustServeAll(t, backend.Host, 80)
	tests := map[string]hand.LoadOptions{
		"connections":            {Network: "tcp"},
		"connections with reset": {Network: "tcp", Reset: true},
		"persistent":             {Network: "tcp", Persistent: true},
		"with pauses":            {Network: "tcp", Pause: time.Millisecond},
		"udp":                    {Network: "udp"},
		"udp persistent":         {Network: "udp", Persistent: true},
	}
	for name, options := range tests {
		t.Run(name, func(t *testing.T) {
			options.Addr, options.Workers = netip.AddrPortFrom(backend.IPv6, 80).String(), 4
			load, err := client.Load(ctx, options)
			if err != nil {
				t.Fatal(err)
			}
			awaitReport(t, load, "200 requests", func(r hand.LoadReport) bool { return r.Requests >= 200 })
			r, err := load.Stop(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if r.Failures != 0 || len(r.Errors) != 0 || r.Backends[backend.Name] != r.Requests {
				t.Errorf("not all requests answered by %s: %+v", backend.Name, r)
			}
			if r.CPU <= 0 || r.Slowest <= 0 || r.Slowest > r.Elapsed {
				t.Errorf("times make no sense: %+v", r)
			}
			t.Logf("%.0f requests/s", float64(r.Requests)/r.Elapsed.Seconds())
			if _, err := load.Report(ctx); err == nil {
				t.Error("a stopped load still reports")
			}
		})
	}
}

// Every failure is counted and the first ones are told, while the load goes on.
func TestLoadFailures(t *testing.T) {
	ctx := t.Context()
	c := testenv.MustNew(t, testenv.Options{Nodes: 1, PodsPerNode: 2})
	backend, client := c.Nodes[0].Pods[0], c.Nodes[0].Pods[1]
	addr := netip.AddrPortFrom(backend.IPv4, 80).String()
	for name, options := range map[string]hand.LoadOptions{
		"connections": {Network: "tcp", Addr: addr, Workers: 2},
		"persistent":  {Network: "tcp", Addr: addr, Workers: 2, Persistent: true},
	} {
		t.Run(name, func(t *testing.T) {
			server, err := backend.Serve(ctx, "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			load, err := client.Load(ctx, options)
			if err != nil {
				t.Fatal(err)
			}
			awaitReport(t, load, "requests", func(r hand.LoadReport) bool { return r.Requests >= 10 && r.Failures == 0 })
			if err := server.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			awaitReport(t, load, "failures", func(r hand.LoadReport) bool { return r.Failures >= 10 })
			answered := mustReport(t, load).Requests
			if server, err = backend.Serve(ctx, "tcp", addr); err != nil {
				t.Fatal(err)
			}
			awaitReport(t, load, "recovery", func(r hand.LoadReport) bool { return r.Requests >= answered+10 })
			r, err := load.Stop(ctx)
			if err != nil || len(r.Errors) == 0 || len(r.Errors) > r.Failures || !strings.Contains(r.Errors[len(r.Errors)-1], "connection refused") {
				t.Errorf("report %+v, %v, want connection refused", r, err)
			}
			if err := server.Stop(ctx); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func mustReport(t *testing.T, load *hand.Load) hand.LoadReport {
	t.Helper()
	r, err := load.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func awaitReport(t *testing.T, load *hand.Load, what string, reached func(hand.LoadReport) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := testenv.Eventually(ctx, func(ctx context.Context) error {
		r, err := load.Report(ctx)
		if err == nil && !reached(r) {
			err = fmt.Errorf("%+v", r)
		}
		return err
	})
	if err != nil {
		t.Fatalf("no %s: %v", what, err)
	}
}

// Clusters with the same addresses run side by side, and each cleans up after itself alone.
func TestCloseLeavesNothing(t *testing.T) {
	stays := testenv.MustNew(t, testenv.Options{Nodes: 1})
	mustServeAll(t, stays.Nodes[0].Host, 80)
	filesBefore := openFiles(t)

	c, err := testenv.New(t.Context(), testenv.Options{Nodes: 2, PodsPerNode: 1, Clients: 1, PodNetwork: testenv.Bridged, Overlay: testenv.VXLAN})
	if err != nil {
		t.Fatal(err)
	}
	mustServeAll(t, c.Nodes[0].Host, 80)
	agent, err := c.Nodes[0].Start(exec.Command("/bin/sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Nodes[1].Forward("127.0.0.1:80", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(c.Nodes[0].BPFRoot, "svcproxy", "v1"), 0o700); err != nil {
		t.Fatal(err)
	}
	pids := []int{agent.PID()}
	namespaces := map[string]bool{}
	var dirs []string
	for _, h := range c.Hosts() {
		pids = append(pids, h.HandPID())
		namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", h.HandPID()))
		if err != nil {
			t.Fatal(err)
		}
		namespaces[namespace] = true
		dirs = append(dirs, h.Cgroup)
	}
	for _, n := range c.Nodes {
		dirs = append(dirs, n.BPFRoot)
	}
	dirs = append(dirs, filepath.Dir(c.Nodes[0].Cgroup), filepath.Dir(c.Nodes[0].BPFRoot))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	for _, pid := range pids {
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("process %d is still there: %v", pid, err)
		}
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
	// A namespace ends, its links with it, when no process is in it and no file refers to it.
	references, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range references {
		if namespace, err := os.Readlink(path); err == nil && namespaces[namespace] {
			t.Errorf("%s still is %s", path, namespace)
		}
	}
	if diff := cmp.Diff(filesBefore, openFiles(t)); diff != "" {
		t.Errorf("open files (-before +after):\n%s", diff)
	}
	checkRequest(t, "tcp", stays.Nodes[0].Host, netip.AddrPortFrom(stays.Nodes[0].IPv4, 80), hand.Reply{
		Backend: "node-a",
		Source:  netip.AddrPortFrom(stays.Nodes[0].IPv4, 0),
		Peer:    netip.AddrPortFrom(stays.Nodes[0].IPv4, 80),
		Local:   netip.AddrPortFrom(stays.Nodes[0].IPv4, 0),
	})
}

// openFiles counts this process's open files by what they are.
func openFiles(t *testing.T) map[string]int {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]int{}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue // the directory that was just read
		}
		kind, _, _ := strings.Cut(target, ":")
		files[kind]++
	}
	return files
}

// ownerVariable makes this test's executable into a process that makes a cluster and waits to be killed.
const ownerVariable = "TESTENV_TEST_OWNER"

func beOwner() {
	c, err := testenv.New(context.Background(), testenv.Options{Nodes: 1, PodsPerNode: 1})
	if err == nil {
		_, err = c.Nodes[0].Start(exec.Command("/bin/sleep", "1000"))
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(c.Nodes[0].Cgroup, c.Nodes[0].BPFRoot)
	select {}
}

// What a killed owner leaves: no process, and the directories, which the next cluster removes.
func TestKilledOwner(t *testing.T) {
	owner := exec.Command("/proc/self/exe")
	owner.Env = append(os.Environ(), ownerVariable+"=1")
	owner.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // Pdeathsig is about this thread
	defer runtime.UnlockOSThread()
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var cgroup, bpfRoot string
	_, scanErr := fmt.Fscan(out, &cgroup, &bpfRoot)
	testenv.MustNew(t, testenv.Options{}) // sweeps while the owner lives
	_, cgroupErr := os.Stat(cgroup)
	_, bpfErr := os.Stat(bpfRoot)
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // it was killed
	if err := errors.Join(scanErr, cgroupErr, bpfErr); err != nil {
		t.Fatalf("the owner's cluster: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err = testenv.Eventually(ctx, func(context.Context) error {
		events, err := os.ReadFile(filepath.Join(filepath.Dir(cgroup), "cgroup.events"))
		if err == nil && !strings.Contains(string(events), "populated 0") {
			err = fmt.Errorf("its cgroup: %s", events)
		}
		return err
	})
	if err != nil {
		t.Errorf("a hand outlives its owner: %v", err)
	}
	testenv.MustNew(t, testenv.Options{})
	for _, dir := range []string{filepath.Dir(cgroup), filepath.Dir(bpfRoot)} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was not swept: %v", dir, err)
		}
	}
}

// A hand that died is an error of every verb, not a test that hangs.
func TestHandDies(t *testing.T) {
	c := testenv.MustNew(t, testenv.Options{Nodes: 1})
	if err := unix.Kill(c.Nodes[0].HandPID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_, err := c.Nodes[0].Request(t.Context(), "tcp", "172.30.0.11:80")
	if err == nil || errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("request by a dead hand: %v", err)
	}
}

func TestMissingPrivileges(t *testing.T) {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, which is somebody else now, ends with the goroutine
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			result <- errno
			return
		}
		_, err := testenv.New(context.Background(), testenv.Options{Nodes: 1})
		result <- err
	}()
	const want = "a cluster of network namespaces needs root: this process lacks CAP_SYS_ADMIN and CAP_NET_ADMIN"
	if err := <-result; err == nil || err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
}
