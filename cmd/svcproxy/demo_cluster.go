package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

const (
	serverPort = 8080
	// patience is how long the demo waits for what should happen at once.
	patience = 10 * time.Second
)

// demo is the cluster that the story plays in. It is to be closed, also if build has failed.
type demo struct {
	*testenv.Cluster
	out    *page
	dir    string // the manifests, the agents' logs
	hosts  map[string]*testenv.Host
	agents map[string]*testenv.Process // by node
}

func (d *demo) build(ctx context.Context) (err error) {
	d.hosts, d.agents = map[string]*testenv.Host{}, map[string]*testenv.Process{}
	done := d.out.doing("Making two nodes, four pods and a client, of network namespaces")
	if d.Cluster, err = testenv.New(ctx, testenv.Options{Nodes: 2, PodsPerNode: 2, Clients: 1}); err != nil {
		return err
	}
	for _, h := range d.Hosts() {
		d.hosts[h.Name] = h
	}
	for _, name := range everyone {
		if _, err := d.hosts[name].ServeAll(ctx, serverPort); err != nil {
			return fmt.Errorf("serve on %s: %w", name, err)
		}
	}
	done()

	done = d.out.doing("Writing the Service demo/web as YAML, starting an agent on each node")
	if d.dir, err = testenv.TempDir(); err != nil {
		return err
	}
	if err := d.writeManifests(); err != nil {
		return err
	}
	for _, n := range d.Nodes {
		if err := d.startAgent(n); err != nil {
			return err
		}
	}
	for _, n := range d.Nodes {
		if err := d.awaitAgent(ctx, n); err != nil {
			return err
		}
	}
	done()
	return nil
}

// close removes the cluster with everything in it.
func (d *demo) close() error {
	var err error
	if d.Cluster != nil {
		err = d.Cluster.Close()
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

func (d *demo) logFile(n *testenv.Node) string { return filepath.Join(d.dir, n.Name+".log") }

// startAgent runs this program's other face: the agent that a real node would run.
func (d *demo) startAgent(n *testenv.Node) error {
	log, err := os.OpenFile(d.logFile(n), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", "run", "--hostname-override", n.Name, "--manifests", d.manifests(),
		"--cgroup-root", n.Cgroup, "--bpf-root", n.BPFRoot)
	cmd.Stdout, cmd.Stderr = log, log
	d.agents[n.Name], err = n.Start(cmd)
	return err
}

// awaitAgent returns when the node's agent says that it serves.
func (d *demo) awaitAgent(ctx context.Context, n *testenv.Node) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := testenv.Eventually(ctx, func(ctx context.Context) error {
		select {
		case <-d.agents[n.Name].Done():
			cancel() // it will not get ready any more
		default:
		}
		_, err := httpGet(ctx, n, "127.0.0.1:10256", "/readyz")
		return err
	})
	if err != nil {
		return fmt.Errorf("agent of %s does not get ready: %w; it said last: %s", n.Name, err, lastLine(d.logFile(n)))
	}
	return nil
}

func lastLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(lines[len(lines)-1])
}

// httpGet makes an HTTP request on the node.
func httpGet(ctx context.Context, n *testenv.Node, address, path string) (string, error) {
	client := http.Client{Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

// tableWrites returns how many entries of the kernel's tables the node's agent has written since it started.
func tableWrites(ctx context.Context, n *testenv.Node) (writes int, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	metrics, err := httpGet(ctx, n, "127.0.0.1:10249", "/metrics")
	if err != nil {
		return 0, err
	}
	found := false
	for line := range strings.Lines(metrics) {
		if rest, ok := strings.CutPrefix(line, "svcproxy_table_writes_total{"); ok {
			_, value, _ := strings.Cut(rest, "} ")
			count, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				return 0, fmt.Errorf("metric %q: %w", line, err)
			}
			writes, found = writes+int(count), true
		}
	}
	if !found {
		return 0, errors.New("the agent's metrics lack svcproxy_table_writes_total")
	}
	return writes, nil
}
