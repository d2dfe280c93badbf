package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// patience is how long a test waits for something that should happen at once.
const patience = 20 * time.Second

// agent is a svcproxy running on a node.
type agent struct {
	*testenv.Process
	node *testenv.Node
	log  *output
}

// output collects what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// startAgent starts the agent on a node and returns when it is ready.
func startAgent(t testing.TB, n *testenv.Node, args ...string) *agent {
	t.Helper()
	a := launchAgent(t, n, args...)
	if err := a.ready(t.Context()); err != nil {
		_ = a.Signal(syscall.SIGQUIT) // where it hangs
		<-a.Done()
		t.Fatalf("agent of %s is not ready: %v\n%s", n.Name, err, a.log)
	}
	return a
}

// launchAgent starts the agent on a node. What it logged is shown if the test fails.
func launchAgent(t testing.TB, n *testenv.Node, args ...string) *agent {
	t.Helper()
	a := &agent{node: n, log: &output{}}
	cmd := exec.Command(binary, append([]string{"run", "--hostname-override", n.Name, "--cgroup-root", n.Cgroup,
		"--bpf-root", n.BPFRoot, "--healthz-bind-address", "0.0.0.0:10256"}, args...)...)
	cmd.Stdout, cmd.Stderr = a.log, a.log
	p, err := n.Start(cmd)
	if err != nil {
		t.Fatalf("start agent: %v", err)
	}
	a.Process = p
	t.Cleanup(func() {
		a.Kill()
		if t.Failed() {
			t.Logf("agent of %s (pid %d):\n%s", n.Name, p.PID(), a.log)
		}
	})
	return a
}

// stop ends the agent as Kubernetes does.
func (a *agent) stop(t *testing.T) {
	t.Helper()
	if err := a.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("stop agent: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := a.Wait(ctx); err != nil {
		t.Fatalf("agent ended with: %v\n%s", err, a.log)
	}
}

// ready waits until /readyz answers 200.
func (a *agent) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return testenv.Eventually(ctx, func(ctx context.Context) error {
		select {
		case <-a.Done():
			cancel() // it will not get ready any more
		default:
		}
		code, body, err := a.get(ctx, "127.0.0.1:10256", "/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d: %s", code, body)
		}
		return err
	})
}

// get asks one of the agent's ports.
func (a *agent) get(ctx context.Context, address, path string) (code int, body string, err error) {
	client := http.Client{Transport: &http.Transport{DialContext: a.node.DialContext, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// writes is how many table entries the agent has written since it started.
func (a *agent) writes(t *testing.T) float64 {
	t.Helper()
	_, body, err := a.get(t.Context(), "127.0.0.1:10249", "/metrics")
	if err != nil {
		t.Fatalf("metrics: %v", err)
	}
	var sum float64
	for _, line := range strings.Split(body, "\n") {
		var table string
		var n float64
		if name, rest, ok := strings.Cut(line, "{table="); ok && name == "svcproxy_table_writes_total" {
			if _, err := fmt.Sscanf(rest, "%q} %g", &table, &n); err != nil {
				t.Fatalf("parse %q: %v", line, err)
			}
			sum += n
		}
	}
	return sum
}

// command runs another verb of the binary on the agent's node and returns what it prints.
func command(t testing.TB, n *testenv.Node, args ...string) string {
	t.Helper()
	var out output
	cmd := exec.Command(binary, append(args, "--bpf-root", n.BPFRoot)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := n.Start(cmd)
	if err == nil {
		err = p.Wait(t.Context())
	}
	if err != nil {
		t.Fatalf("svcproxy %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

// commandJSON runs a noun command with -o json.
func commandJSON[T any](t testing.TB, n *testenv.Node, args ...string) T {
	t.Helper()
	var value T
	if err := json.Unmarshal([]byte(command(t, n, append(args, "-o", "json")...)), &value); err != nil {
		t.Fatalf("svcproxy %s -o json: %v", strings.Join(args, " "), err)
	}
	return value
}

// manifest writes objects as one YAML file, in one step as careful tools do.
func manifest(t testing.TB, dir, name string, objects ...any) {
	t.Helper()
	var text bytes.Buffer
	for _, o := range objects {
		b, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString("---\n")
		text.Write(b)
	}
	temp := filepath.Join(dir, "."+name)
	if err := os.WriteFile(temp, text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}
