package watch

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// manifestDir is RunManifests on a real folder, and what its reader has pieced together.
type manifestDir struct {
	t     *testing.T
	dir   string
	state *State
	log   *logBuffer
	ports map[string]string // of the Services that exist, by name: their ports
	node  *Node
}

func startManifests(t *testing.T, dir string) *manifestDir {
	t.Helper()
	m := &manifestDir{t: t, dir: dir, state: NewState(), ports: make(map[string]string)}
	var log *slog.Logger
	log, m.log = newLog()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- RunManifests(ctx, dir, "node-a", m.state, log) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("RunManifests: %v", err)
		}
	})
	return m
}

const deadline = 10 * time.Second

// want waits until the Services are those, given as name=port.
func (m *manifestDir) want(services ...string) {
	m.t.Helper()
	want := make(map[string]string)
	for _, s := range services {
		name, ports, _ := strings.Cut(s, "=")
		want[name] = ports
	}
	timeout := time.After(deadline)
	for first := true; first || !cmp.Equal(want, m.ports); first = false {
		if cmp.Equal(want, m.ports) && len(m.state.Changed()) == 0 && m.node != nil {
			return
		}
		select {
		case <-m.state.Changed():
			m.take()
		case <-timeout:
			m.t.Fatalf("Services (-want +got):\n%s\nlog:\n%s", cmp.Diff(want, m.ports), m.log)
		}
	}
}

func (m *manifestDir) take() {
	u := m.state.Take()
	for _, c := range u.Changes {
		delete(m.ports, c.Name.String())
		if c.Service != nil {
			m.ports[c.Name.String()] = fmt.Sprint(c.Service.Ports[0].Port)
		}
	}
	if u.Node != nil {
		m.node = u.Node
	}
}

// wantLog waits for that many lines with all the words.
func (m *manifestDir) wantLog(n int, words ...string) {
	m.t.Helper()
	poll(m.t, func() error {
		if got := m.log.count(words...); got != n {
			return fmt.Errorf("%d lines with %q, want %d:\n%s", got, words, n, m.log)
		}
		return nil
	})
}

// poll fails the test with the last error if that does not end in time.
func poll(t *testing.T, try func() error) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(deadline)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatal(err)
		}
	}
}

func (m *manifestDir) write(name, text string) { write(m.t, filepath.Join(m.dir, name), text) }

// write puts a complete file into place.
func write(t *testing.T, path, text string) {
	t.Helper()
	temporary := filepath.Join(filepath.Dir(path), ".tmp-"+filepath.Base(path))
	must(t, os.WriteFile(temporary, []byte(text), 0o644))
	must(t, os.Rename(temporary, path))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func serviceYAML(name string, port int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {clusterIP: 10.96.0.1, ports: [{port: %d}]}\n", name, port)
}

func TestManifestsLife(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), serviceYAML("a", 1))
	m := startManifests(t, dir)
	m.want("default/a=1")

	m.write("b.yml", serviceYAML("b", 1)+"---\n"+serviceYAML("c", 1))
	m.want("default/a=1", "default/b=1", "default/c=1")
	m.write("b.yml", serviceYAML("b", 2)+"---\n"+serviceYAML("c", 1)) // changes b only
	m.want("default/a=1", "default/b=2", "default/c=1")
	if got := m.state.Counters().ServiceChanges; got != 4 {
		t.Errorf("%d changes so far, want 4", got)
	}

	m.write("b.yml", serviceYAML("b", 3)+"---\nkind: [\n") // breaks
	m.wantLog(1, "ERROR", filepath.Join(dir, "b.yml"), "document 2 (line 6)")
	m.write("a.yaml", serviceYAML("a", 2)) // does not suffer
	m.want("default/a=2", "default/b=2", "default/c=1")
	m.write("b.yml", serviceYAML("b", 4)) // mended, and without c
	m.want("default/a=2", "default/b=4")
	if got := m.state.Counters().Rejected; got[kindManifest] != 1 || len(got) != 1 {
		t.Errorf("rejected %v, want one file", got)
	}

	must(t, os.Rename(filepath.Join(dir, "b.yml"), filepath.Join(dir, "b.off")))
	m.want("default/a=2")
	must(t, os.Remove(filepath.Join(dir, "a.yaml")))
	m.want()
	must(t, os.WriteFile(filepath.Join(dir, "late.json"), []byte(`{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"x","name":"y"},"spec":{"clusterIP":"10.96.0.2","ports":[{"port":5}]}}`), 0o644))
	m.want("x/y=5")
}

func TestManifestsWritesOfOtherFiles(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "sub.yaml"), 0o755))
	for _, name := range []string{"a.yaml~", ".a.yaml.swp", "a.txt", "a.yaml.bak", ".hidden.yaml", "sub.yaml/x.yaml"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(serviceYAML("wrong", 1)), 0o644))
	}
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling.yaml")))
	m := startManifests(t, dir)
	m.want()
	must(t, os.WriteFile(filepath.Join(dir, "4913"), nil, 0o644)) // vim asks so whether it may write
	must(t, os.Remove(filepath.Join(dir, "4913")))
	m.write("a.yaml", serviceYAML("a", 1))
	m.want("default/a=1")
	m.wantLog(0, "ERROR")
}

func TestManifestsDuplicates(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "b.yaml"), serviceYAML("web", 2))
	m := startManifests(t, dir)
	m.want("default/web=2")
	m.write("c.yaml", serviceYAML("web", 3))
	m.wantLog(1, "ERROR", "Service default/web", filepath.Join(dir, "b.yaml"), filepath.Join(dir, "c.yaml"))
	m.write("a.yaml", serviceYAML("web", 1)+"---\n"+serviceYAML("web", 7)) // is first by name; its own second is nothing
	m.want("default/web=1")
	m.wantLog(1, "ERROR", "Service default/web", filepath.Join(dir, "a.yaml"), "twice", "document 2 (line 6)")
	must(t, os.Remove(filepath.Join(dir, "a.yaml")))
	m.want("default/web=2")
	must(t, os.Remove(filepath.Join(dir, "b.yaml")))
	m.want("default/web=3")
}

func TestManifestsNode(t *testing.T) {
	dir := t.TempDir()
	m := startManifests(t, dir)
	wantNode := func(want *Node) {
		t.Helper()
		poll(t, func() error {
			m.take()
			if diff := cmp.Diff(want, m.node, compareAddrs); diff != "" {
				return fmt.Errorf("node (-want +got):\n%s", diff)
			}
			return nil
		})
	}
	wantNode(&Node{Name: "node-a"})
	node := func(name, zone string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: %s, labels: {topology.kubernetes.io/zone: %s}}\n", name, zone)
	}
	m.write("nodes.yaml", node("node-b", "z2")+"---\n"+node("node-a", "z1"))
	wantNode(&Node{Name: "node-a", Zone: "z1"})
	must(t, os.Remove(filepath.Join(dir, "nodes.yaml")))
	wantNode(&Node{Name: "node-a"})
}

func TestManifestsServiceCIDRs(t *testing.T) {
	dir := t.TempDir()
	m := startManifests(t, dir)
	wantTaken := func(want []netip.Prefix) {
		t.Helper()
		var got []netip.Prefix
		poll(t, func() error {
			if u := m.state.Take(); u.ServiceCIDRs != nil {
				got = u.ServiceCIDRs
			}
			if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
				return fmt.Errorf("ServiceCIDRs (-want +got):\n%s", diff)
			}
			return nil
		})
	}
	wantTaken(cidrs())
	m.write("cidrs.yaml", "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/12, \"fd96::/108\"]}\n")
	wantTaken(cidrs("10.96.0.0/12", "fd96::/108"))
	must(t, os.Remove(filepath.Join(dir, "cidrs.yaml")))
	wantTaken(cidrs())
}

// TestManifestsConfigMap swaps a link as the kubelet does for a ConfigMap: all files change at once, with
// no event for any of them.
func TestManifestsConfigMap(t *testing.T) {
	dir := t.TempDir()
	version := func(name string, port int) {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name, "a.yaml"), []byte(serviceYAML("a", port)), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, name, "b.yaml"), []byte(serviceYAML("b", port)), 0o644))
		must(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	version("..1", 1)
	for _, name := range []string{"a.yaml", "b.yaml"} {
		must(t, os.Symlink("..data/"+name, filepath.Join(dir, name)))
	}
	m := startManifests(t, dir)
	m.want("default/a=1", "default/b=1")
	version("..2", 2)
	m.want("default/a=2", "default/b=2")
}

// TestManifestsMoveIsOneUpdate: a Service that goes from one file to another is never away.
func TestManifestsMoveIsOneUpdate(t *testing.T) {
	dir := t.TempDir()
	log, _ := newLog()
	state := NewState()
	f := newFolder(dir, "node-a", state, log)
	write(t, filepath.Join(dir, "a.yaml"), serviceYAML("web", 1))
	must(t, f.read(nil, true))
	state.sync()
	state.Take()
	before := state.Counters().ServiceChanges
	must(t, os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "z.yaml")))
	must(t, f.read(nil, true))
	wantUpdate(t, state, Update{})
	if got := state.Counters().ServiceChanges - before; got != 0 {
		t.Errorf("%d changes, want none", got)
	}
}

func TestManifestsBadObject(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80, protocol: FOO}, {name: ok, port: 0081}, {port: 82}]}\n")
	m := startManifests(t, dir)
	m.want("default/a=81")
	m.wantLog(1, "ERROR", `Service default/a: port \"http\": protocol \"FOO\" is not TCP, UDP or SCTP`)
	if got := m.state.Counters().Rejected[kindService]; got != 1 {
		t.Errorf("rejected %d Services, want 1", got)
	}
}

// TestManifestsFolderGoes: what is known stays while the folder is away, and another one of its name counts.
func TestManifestsFolderGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	must(t, os.Mkdir(dir, 0o755))
	write(t, filepath.Join(dir, "a.yaml"), serviceYAML("a", 1))
	m := startManifests(t, dir)
	m.want("default/a=1")
	must(t, os.Rename(dir, dir+".old"))
	m.wantLog(1, "ERROR", "manifests cannot be read")
	m.want("default/a=1")
	must(t, os.Mkdir(dir, 0o755))
	m.write("b.yaml", serviceYAML("b", 1))
	m.want("default/b=1")
	m.wantLog(1, "INFO", "manifests can be read again")
	m.write("b.yaml", serviceYAML("b", 2)) // the new one is watched
	m.want("default/b=2")
}

func TestManifestsStart(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	must(t, os.WriteFile(file, nil, 0o644))
	for _, tt := range []struct{ name, dir, want string }{
		{"missing", filepath.Join(dir, "missing"), "no such file or directory"},
		{"a file", file, "is not a folder"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			state := NewState()
			err := RunManifests(t.Context(), tt.dir, "node-a", state, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.dir) {
				t.Errorf("error is %v, want one with %q and %q", err, tt.want, tt.dir)
			}
			if signalled(state) {
				t.Error("signalled without having read anything")
			}
		})
	}
}

func TestReporterBoundsLines(t *testing.T) {
	log, lines := newLog()
	state := NewState()
	r := newReporter(state, log)
	k := key{kindSlice, endpoints.ObjectName{Namespace: "default", Name: "web-1"}}
	many := findings{key: k}
	for i := range 1000 {
		many.add("endpoints[%d]: has no address", i)
	}
	r.report(k, many.errs)
	r.report(k, many.errs)
	if got := lines.count("ERROR"); got != maxReported+1 {
		t.Errorf("%d lines, want %d", got, maxReported+1)
	}
	if lines.count("990 more") != 1 {
		t.Errorf("the rest is not counted:\n%s", lines)
	}
	r.report(k, nil)
	if len(r.last) != 0 {
		t.Errorf("remembers %v", r.last)
	}
}
