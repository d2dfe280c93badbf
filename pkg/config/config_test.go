package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// parse does what `svcproxy run` does with its arguments.
func parse(args ...string) (*Config, error) {
	c := New()
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	c.AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return c, c.Complete(fs)
}

// kubeadm is the file that kubeadm writes, cut to what is of interest.
const kubeadm = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
metricsBindAddress: ""
mode: ""
nodePortAddresses: null
`

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestKubeadmFile(t *testing.T) {
	c, err := parse("--config", writeFile(t, kubeadm), "--hostname-override", " Node-A ", "--cluster-cidr", "192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	got := []any{c.Proxy.HostnameOverride, c.Proxy.ClusterCIDR, c.Proxy.HealthzBindAddress, c.Proxy.MetricsBindAddress,
		c.Proxy.ClientConnection.Kubeconfig, c.Proxy.ClientConnection.QPS, c.PodsDetected(), c.LocalhostNodePorts(), c.SyncPeriod().String(), len(c.Warnings)}
	want := []any{"node-a", "10.244.0.0/16,fd00:10:244::/56", "0.0.0.0:10256", "127.0.0.1:10249",
		"/var/lib/kube-proxy/kubeconfig.conf", float32(5), true, true, "30s", 0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestUnknownFieldWarns(t *testing.T) {
	c, err := parse("--config", writeFile(t, kubeadm+"conntrackk:\n  min: 5\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "conntrackk") {
		t.Errorf("warnings %q do not name the field", c.Warnings)
	}
	if c.Proxy.ClusterCIDR == "" {
		t.Error("the rest of the file is not used")
	}
}

func TestAddresses(t *testing.T) {
	for _, tc := range []struct {
		name            string
		args            []string
		health, metrics string
	}{
		{"defaults", nil, "0.0.0.0:10256", "127.0.0.1:10249"},
		{"IPv6", []string{"--bind-address=::"}, "[::]:10256", "[::1]:10249"},
		{"ports added", []string{"--healthz-bind-address=127.0.0.1", "--metrics-bind-address=::1"}, "127.0.0.1:10256", "[::1]:10249"},
		{"off", []string{"--healthz-bind-address=", "--metrics-bind-address="}, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := parse(tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			if c.Proxy.HealthzBindAddress != tc.health || c.Proxy.MetricsBindAddress != tc.metrics {
				t.Errorf("health %q, metrics %q; want %q, %q", c.Proxy.HealthzBindAddress, c.Proxy.MetricsBindAddress, tc.health, tc.metrics)
			}
		})
	}
}

func TestPodsDetected(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want bool
	}{
		{nil, false},
		{[]string{"--cluster-cidr=10.244.0.0/16"}, true},
		{[]string{"--detect-local-mode=NodeCIDR"}, true},
		{[]string{"--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"}, true},
	} {
		c, err := parse(tc.args...)
		if err != nil {
			t.Fatalf("%v: %v", tc.args, err)
		}
		if got := c.PodsDetected(); got != tc.want {
			t.Errorf("%v: pods detected %v, want %v", tc.args, got, tc.want)
		}
	}
}

func TestErrorsNameTheFlag(t *testing.T) {
	for _, tc := range []struct{ arg, want string }{
		{"--healthz-bind-address=nowhere:x", "--healthz-bind-address"},
		{"--bind-address=here", "--bind-address"},
		{"--detect-local-mode=Guess", "--detect-local-mode"},
		{"--detect-local-mode=BridgeInterface", "--pod-bridge-interface"},
		{"--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix"},
		{"--cluster-cidr=10.0.0.0", "--cluster-cidr"},
		{"--cluster-cidr=10.0.0.0/8,11.0.0.0/8", "more than one of a family"},
		{"--snat-ports=5-1", "--snat-ports"},
		{"--snat-ports=1-2-3", "--snat-ports"},
		{"--north-south=east", "--north-south"},
		{"--bpf-root=here", "--bpf-root"},
		{"--config=/does/not/exist", "--config"},
	} {
		if _, err := parse(tc.arg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v does not say %q", tc.arg, err, tc.want)
		}
	}
	for _, text := range []string{"kind: Pod\napiVersion: v1\n", "a: [", strings.Replace(kubeadm, "burst: 0", "burst: many", 1)} {
		path := writeFile(t, text)
		if _, err := parse("--config", path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%.20q: error %v does not name the file", text, err)
		}
	}
}

func TestCgroup2Mounts(t *testing.T) {
	got, err := cgroup2Mounts(strings.NewReader(`25 30 0:23 / /sys/fs/cgroup ro - tmpfs tmpfs ro
30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
32 25 0:26 /../.. /host\040cgroup rw - cgroup2 cgroup2 rw
short
`))
	if diff := cmp.Diff([]string{"/sys/fs/cgroup/unified", "/host cgroup"}, got); diff != "" || err != nil {
		t.Errorf("error %v, -want +got\n%s", err, diff)
	}
}
