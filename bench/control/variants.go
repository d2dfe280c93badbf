package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// A variant is a proxy, as it is started on a node.
type variant struct {
	name    string
	version string
	limit   int // the most Services with which measuring it takes minutes, not hours
	// pace is the time between lone changes: kube-proxy writes once a second at most, which is not to count
	// against it.
	pace    time.Duration
	command func(n *testenv.Node, kubeconfig, dir string) (*exec.Cmd, error)
	// kernel returns the bytes of its tables. It may destroy them.
	kernel  func(w *world, p *testenv.Process) (int64, error)
	metrics string // where it tells the agent's own share; empty: it does not
}

const (
	metricsAddress = "127.0.0.1:10249"
	kubeProxyLimit = 10000
)

func variants(ctx context.Context, o options) ([]variant, error) {
	var list []variant
	for _, path := range o.binaries {
		path, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		version, err := exec.CommandContext(ctx, path, "version").Output()
		if err != nil {
			return nil, fmt.Errorf("%s version: %w", path, err)
		}
		list = append(list, variant{
			name: filepath.Base(path), version: firstLine(version), limit: math.MaxInt, pace: 20 * time.Millisecond,
			kernel: mapMemory, metrics: metricsAddress,
			command: func(n *testenv.Node, kubeconfig, _ string) (*exec.Cmd, error) {
				return exec.Command(path, "run", "--kubeconfig", kubeconfig, "--hostname-override", n.Name,
					"--cgroup-root", n.Cgroup, "--bpf-root", n.BPFRoot, "--cluster-cidr", clusterCIDR), nil
			},
		})
	}
	if len(o.modes) == 0 {
		return list, nil
	}
	path, err := apiserver.Binary(ctx, "kube-proxy", func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
	if err != nil {
		return nil, err
	}
	version, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("kube-proxy --version: %w", err)
	}
	for _, mode := range o.modes {
		list = append(list, variant{
			name: "kube-proxy " + mode, version: firstLine(version), limit: kubeProxyLimit, pace: 1100 * time.Millisecond,
			kernel: rulesetMemory,
			command: func(n *testenv.Node, kubeconfig, dir string) (*exec.Cmd, error) {
				config := filepath.Join(dir, "kube-proxy.yaml")
				return exec.Command(path, "--config", config), os.WriteFile(config, []byte(kubeProxyConfig(n, kubeconfig, mode)), 0o600)
			},
		})
	}
	return list, nil
}

// kubeProxyConfig is kubeadm's, but for what a network namespace is not allowed.
func kubeProxyConfig(n *testenv.Node, kubeconfig, mode string) string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
hostnameOverride: %s
clusterCIDR: %s
bindAddress: 0.0.0.0
healthzBindAddress: 0.0.0.0:10256
metricsBindAddress: %s
clientConnection:
  kubeconfig: %s
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
`, mode, n.Name, clusterCIDR, metricsAddress, kubeconfig)
}
