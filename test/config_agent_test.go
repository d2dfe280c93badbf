package test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// proxyConfig writes a configuration file and returns its path.
func proxyConfig(t *testing.T, fields string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.conf")
	text := "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n" + fields
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// ended waits for the agent to end with an error, and returns what it said.
func (a *agent) ended(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := a.Wait(ctx); err == nil || ctx.Err() != nil {
		t.Fatalf("agent ended with %v, want an error\n%s", err, a.log)
	}
	return a.log.String()
}

// What a file says is in force, and /configz says so (parity 7.3); the sysctls are those of the node's own
// namespace (parity 6.3); the process is as hard to kill as it says.
func TestConfigFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	file := proxyConfig(t, `conntrack: {tcpEstablishedTimeout: 5h, tcpCloseWaitTimeout: 61m, tcpBeLiberal: true, udpTimeout: 11s, udpStreamTimeout: 22s}
clusterCIDR: 10.244.0.0/16
oomScoreAdj: 123
unheardOf: 5
nodePortAddresses: [primary]
`)
	w.start(t, []string{"--config", file}, w.a)
	a := w.agents[0]

	got := map[string]string{}
	want := map[string]string{
		"nf_conntrack_tcp_timeout_established": "18000", "nf_conntrack_tcp_timeout_close_wait": "3660",
		"nf_conntrack_tcp_be_liberal": "1", "nf_conntrack_udp_timeout": "11", "nf_conntrack_udp_timeout_stream": "22",
	}
	if err := w.a.Do(func() error {
		for name := range want {
			text, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
			if err != nil {
				return err
			}
			got[name] = strings.TrimSpace(string(text))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := different(want, got); err != nil {
		t.Errorf("sysctls: %v", err)
	}
	// A lower one needs a right that not every machine gives to root.
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", a.PID())); strings.TrimSpace(string(text)) != "123" {
		t.Errorf("OOM score %s, error %v; want 123", text, err)
	}

	code, body, err := a.get(t.Context(), "127.0.0.1:10249", "/configz")
	if code != 200 || err != nil {
		t.Fatalf("/configz: %d, error %v: %s", code, err, body)
	}
	type proxyConfiguration struct {
		APIVersion, Kind, ClusterCIDR, HostnameOverride, MetricsBindAddress string
		NodePortAddresses                                                   []string
		OOMScoreAdj                                                         int
	}
	var answer map[string]proxyConfiguration
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("/configz: %v: %s", err, body)
	}
	if err := different(map[string]proxyConfiguration{"kubeproxy.config.k8s.io": {
		APIVersion: "kubeproxy.config.k8s.io/v1alpha1", Kind: "KubeProxyConfiguration", ClusterCIDR: "10.244.0.0/16",
		HostnameOverride: w.a.Name, MetricsBindAddress: "127.0.0.1:10249", NodePortAddresses: []string{"primary"}, OOMScoreAdj: 123,
	}}, answer); err != nil {
		t.Errorf("/configz: %v", err)
	}
	for path, want := range map[string]string{
		"/flagz": "\nconfig:" + file + "\n", "/statusz": "\nBinary version: ", "/metrics/slis": "\nprocess_start_time_seconds ",
	} {
		if code, body, err := a.get(t.Context(), "127.0.0.1:10249", path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d, error %v: no %q in %s", path, code, err, want, body)
		}
	}
	for _, line := range []string{`unknown field \"unheardOf\"`, "--healthz-bind-address: ignored"} {
		if n := strings.Count(a.log.String(), line); n != 1 {
			t.Errorf("%d lines of the log say %s, want 1", n, line)
		}
	}

	// with other content it ends, for its supervisor to start it with that; the data path stays.
	temp := file + ".new"
	if err := os.WriteFile(temp, []byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, file); err != nil {
		t.Fatal(err)
	}
	if said := a.ended(t); !strings.Contains(said, file+": has changed") {
		t.Errorf("the last words do not say that %s has changed", file)
	}
	if hooks := commandJSON[struct{ SocketHooks []string }](t, w.a, "status").SocketHooks; len(hooks) == 0 {
		t.Error("the socket programs have gone with the agent")
	}
}

// What cannot be understood ends the agent at once, with the name of it.
func TestConfigRefused(t *testing.T) {
	t.Parallel()
	c := testenv.MustNew(t, testenv.Options{Nodes: 1})
	for _, tc := range []struct {
		arg, want string
	}{
		{"--config=" + proxyConfig(t, "mode: kernelspace\n"), "mode, --proxy-mode"},
		{"--config=" + proxyConfig(t, "winkernel: {sourceVip: 192.0.2.1}\n"), "winkernel"},
		{"--conntrack-min=-1", "--conntrack-min"},
		{"--nodeport-addresses=primary,10.0.0.0/8", "--nodeport-addresses"},
	} {
		a := launchAgent(t, c.Nodes[0], tc.arg, "--manifests", t.TempDir())
		if said := a.ended(t); !strings.Contains(said, tc.want) {
			t.Errorf("%s: says %s, want %s", tc.arg, said, tc.want)
		}
	}
}

// --version, --write-config-to, --init-only and --cleanup do what they say and end.
func TestConfigCommands(t *testing.T) {
	t.Parallel()
	c := testenv.MustNew(t, testenv.Options{Nodes: 1})
	n := c.Nodes[0]
	run := func(args ...string) string {
		t.Helper()
		return command(t, n, append([]string{"run", "--cgroup-root", n.Cgroup}, args...)...)
	}
	if out := run("--version"); !strings.HasPrefix(out, "svcproxy v") {
		t.Errorf("--version says %q", out)
	}
	path := filepath.Join(t.TempDir(), "written")
	run("--write-config-to", path, "--cluster-cidr=10.0.0.0/8")
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), "clusterCIDR: 10.0.0.0/8\n") || !strings.Contains(string(text), "maxPerCore: 32768\n") {
		t.Errorf("--write-config-to: error %v:\n%s", err, text)
	}
	run("--init-only", "--conntrack-udp-timeout=44s")
	if pins, err := os.ReadDir(n.BPFRoot); len(pins) == 0 {
		t.Errorf("--init-only pinned nothing, error %v", err)
	}
	if err := n.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout")
		if strings.TrimSpace(string(text)) != "44" {
			t.Errorf("--init-only: nf_conntrack_udp_timeout is %s", text)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	run("--cleanup")
	if pins, err := os.ReadDir(n.BPFRoot); len(pins) > 0 {
		t.Errorf("--cleanup left %v, error %v", pins, err)
	}
}

// AllowServiceExternalIPs=false: those addresses are nobody's.
func TestConfigExternalIPs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	s := service("web", 10, 30080)
	s.Spec.ExternalIPs = []string{"198.51.100.7"}
	w.put(t, s, backends(w.a1)...)
	w.start(t, []string{"--feature-gates=AllowServiceExternalIPs=false"}, w.a)
	w.start(t, nil, w.b)
	has := map[string]bool{}
	for _, n := range w.Nodes {
		has[n.Name] = strings.Contains(command(t, n, "services"), "198.51.100.7")
	}
	if err := different(map[string]bool{"node-a": false, "node-b": true}, has); err != nil {
		t.Errorf("external IP served: %v", err)
	}
}

// with NodeCIDR the Node's podCIDRs are waited for, and taken live.
func TestConfigNodeCIDR(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	node := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: w.a.Name}}
	manifest(t, w.dir, "node.yaml", node)
	a := launchAgent(t, w.a, "--manifests", w.dir, "--detect-local-mode=NodeCIDR")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := testenv.Eventually(ctx, func(ctx context.Context) error {
		code, body, err := a.get(ctx, "127.0.0.1:10256", "/readyz")
		if err == nil && (code != 503 || !strings.Contains(body, "podCIDRs of Node "+w.a.Name)) {
			err = fmt.Errorf("/readyz: %d: %s", code, body)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	node.Spec.PodCIDRs = []string{"10.244.1.0/24"}
	manifest(t, w.dir, "node.yaml", node)
	if err := a.ready(t.Context()); err != nil {
		t.Errorf("with podCIDRs: %v", err)
	}
}

// Families that do not go together: what works all the same is a line of the log, what kube-proxy does not start
// with is an error (parity 8).
func TestConfigFamilies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	node := nodeObject(w.a)
	node.Spec.PodCIDRs = []string{"fd44:1::/64"}
	manifest(t, w.dir, "node.yaml", node)
	if err := os.Remove(filepath.Join(w.dir, "nodes.yaml")); err != nil {
		t.Fatal(err)
	}
	w.start(t, []string{"--cluster-cidr=fd44::/16"}, w.a)
	w.agents[0].stop(t)
	for _, want := range []string{"cluster is IPv4-primary but clusterCIDR", "cluster is IPv4-primary but node.spec.podCIDRs", "nodePortAddresses, --nodeport-addresses is unset"} {
		if n := strings.Count(w.agents[0].log.String(), want); n != 1 {
			t.Errorf("%d lines of the log say %s, want 1", n, want)
		}
	}
	a := launchAgent(t, w.a, "--manifests", w.dir, "--detect-local-mode=NodeCIDR")
	// Its programs are loaded before it knows the Node object: on a machine with other things to do that takes long.
	err := a.Wait(t.Context())
	if text := a.log.String(); err == nil || !strings.Contains(text, "svcproxy: configuration: cluster is IPv4-primary but node.spec.podCIDRs contains only IPv6 addresses") {
		t.Errorf("it ended with %v\n%s", err, text)
	}
}
