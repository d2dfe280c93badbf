// Package config is what the agent is told: kube-proxy's flags and configuration file, by their names and
// meanings, and the few settings of our own.
package config

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
	"k8s.io/utils/ptr"
)

// Config is everything the agent is told. Proxy is kube-proxy's own type, with its defaults (parity 8).
type Config struct {
	Proxy      v1alpha1.KubeProxyConfiguration
	File       string // --config
	Master     string
	Verbosity  int
	CgroupRoot string   // "": found
	BPFRoot    string   // a directory on a bpffs, ours alone
	Devices    []string // globs; none: found by role
	Manifests  string   // a folder instead of an API server
	NorthSouth string   // auto or stack
	SNATPorts  string   // first-last

	// Warnings are what was accepted but has no effect, and what the file had too much of; for the log.
	Warnings []string
}

// Ways to tell pods of this node from other clients (parity 4.2).
const (
	modeClusterCIDR v1alpha1.LocalMode = "ClusterCIDR"
	modeNodeCIDR    v1alpha1.LocalMode = "NodeCIDR"
	modeBridge      v1alpha1.LocalMode = "BridgeInterface"
	modePrefix      v1alpha1.LocalMode = "InterfaceNamePrefix"
)

// New returns the defaults.
func New() *Config {
	return &Config{
		Proxy: v1alpha1.KubeProxyConfiguration{
			BindAddress:        "0.0.0.0",
			HealthzBindAddress: "0.0.0.0:10256",
			MetricsBindAddress: "127.0.0.1:10249",
			DetectLocalMode:    modeClusterCIDR,
			IPTables: v1alpha1.KubeProxyIPTablesConfiguration{
				LocalhostNodePorts: ptr.To(true),
				SyncPeriod:         metav1.Duration{Duration: 30 * time.Second},
			},
		},
		BPFRoot:    "/sys/fs/bpf/svcproxy",
		NorthSouth: "auto",
		SNATPorts:  "11000-29999",
	}
}

// AddFlags adds the flags of `svcproxy run`. The kube-proxy ones keep their names and meanings.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	p := &c.Proxy
	fs.StringVar(&c.File, "config", "", "kube-proxy's configuration file (kubeproxy.config.k8s.io/v1alpha1), as kubeadm's ConfigMap has it; the kube-proxy flags below are then ignored, but for --hostname-override, -v and --master")
	fs.StringVar(&p.ClientConnection.Kubeconfig, "kubeconfig", "", "path of a kubeconfig; name the API server's own address in it, not the ClusterIP that we serve ourselves")
	fs.StringVar(&c.Master, "master", "", "URL of the API server, instead of the kubeconfig's")
	fs.Float32Var(&p.ClientConnection.QPS, "kube-api-qps", 5, "requests a second to the API server")
	fs.Int32Var(&p.ClientConnection.Burst, "kube-api-burst", 10, "burst of requests to the API server")
	fs.StringVar(&p.HostnameOverride, "hostname-override", "", "name of this node's Node object (default: the host name)")
	fs.StringVar(&p.BindAddress, "bind-address", p.BindAddress, "overrides the node's primary address; its family chooses the defaults of the two addresses below")
	fs.StringVar(&p.HealthzBindAddress, "healthz-bind-address", p.HealthzBindAddress, "address of /healthz, /livez and /readyz; empty: off")
	fs.StringVar(&p.MetricsBindAddress, "metrics-bind-address", p.MetricsBindAddress, "address of /metrics; empty: off")
	fs.BoolVar(&p.BindAddressHardFail, "bind-address-hard-fail", false, "end if one of these addresses cannot be listened on, instead of trying again")
	fs.BoolVar(&p.EnableProfiling, "profiling", false, "pprof on the metrics address")
	fs.StringVar((*string)(&p.DetectLocalMode), "detect-local-mode", string(p.DetectLocalMode), "how pods of this node are told from others: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix")
	fs.StringVar(&p.ClusterCIDR, "cluster-cidr", "", "pod addresses of the cluster, for --detect-local-mode=ClusterCIDR; two, separated by a comma, in a dual-stack cluster")
	fs.StringVar(&p.DetectLocal.BridgeInterface, "pod-bridge-interface", "", "the bridge of this node's pods, for --detect-local-mode=BridgeInterface")
	fs.StringVar(&p.DetectLocal.InterfaceNamePrefix, "pod-interface-name-prefix", "", "how the names of pods' links begin, for --detect-local-mode=InterfaceNamePrefix")
	fs.StringSliceVar(&p.NodePortAddresses, "nodeport-addresses", nil, "CIDRs of the node addresses on which NodePorts answer, or primary, all, localhost (default: all)")
	fs.BoolVar(p.IPTables.LocalhostNodePorts, "iptables-localhost-nodeports", true, "NodePorts answer on 127.0.0.1 and [::1] of the host as well")
	fs.BoolVar(&p.IPTables.MasqueradeAll, "masquerade-all", false, "SNAT all traffic to ClusterIPs")
	fs.IntVarP(&c.Verbosity, "v", "v", 0, "log verbosity; 4 and more: every change")

	fs.StringVar(&c.CgroupRoot, "cgroup-root", "", "cgroup2 directory whose processes we serve (default: found)")
	fs.StringVar(&c.BPFRoot, "bpf-root", c.BPFRoot, "directory on a bpffs for what outlives us; one for each agent on a kernel")
	fs.StringSliceVar(&c.Devices, "devices", nil, "names or globs of the links that lead out of the node (default: found by default route, node address, and path to other nodes' pods)")
	fs.StringVar(&c.Manifests, "manifests", "", "serve the Services and EndpointSlices of the YAML files in this folder, watched, without an API server")
	fs.StringVar(&c.NorthSouth, "north-south", c.NorthSouth, "how packets to other nodes' backends go: auto (straight from link to link where possible) or stack (all through the kernel's stack, for firewalls that must see them)")
	fs.StringVar(&c.SNATPorts, "snat-ports", c.SNATPorts, "first and last source port for connections passed on to other nodes; kept out of net.ipv4.ip_local_port_range and the NodePorts")
}

// Complete reads the configuration file, fills in what depends on something else, and checks everything.
// The error names the flag or the field.
func (c *Config) Complete(fs *pflag.FlagSet) error {
	if c.File != "" {
		if err := c.load(fs); err != nil {
			return err
		}
	}
	if err := c.complete(); err != nil {
		return err
	}
	return c.validate()
}

func (c *Config) complete() error {
	p := &c.Proxy
	p.HostnameOverride = strings.ToLower(strings.TrimSpace(p.HostnameOverride))
	if p.HostnameOverride == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read host name (set --hostname-override): %w", err)
		}
		p.HostnameOverride = strings.ToLower(strings.TrimSpace(name))
	}
	if addr, err := netip.ParseAddr(p.BindAddress); err == nil && addr.Is6() {
		if p.HealthzBindAddress == "0.0.0.0:10256" {
			p.HealthzBindAddress = "[::]:10256"
		}
		if p.MetricsBindAddress == "127.0.0.1:10249" {
			p.MetricsBindAddress = "[::1]:10249"
		}
	}
	p.HealthzBindAddress = withPort(p.HealthzBindAddress, "10256")
	p.MetricsBindAddress = withPort(p.MetricsBindAddress, "10249")
	if c.MasqueradeAll() {
		c.Warnings = append(c.Warnings, "masqueradeAll: ClusterIP connections made at sockets keep the pod's address")
	}
	return nil
}

func withPort(address, port string) string {
	if address == "" {
		return ""
	}
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), port)
}

func (c *Config) validate() error {
	p := &c.Proxy
	for flag, address := range map[string]string{
		"--healthz-bind-address": p.HealthzBindAddress, "--metrics-bind-address": p.MetricsBindAddress,
	} {
		if _, err := netip.ParseAddrPort(address); address != "" && err != nil {
			return fmt.Errorf("%s %q: %w", flag, address, err)
		}
	}
	if _, err := netip.ParseAddr(p.BindAddress); err != nil {
		return fmt.Errorf("--bind-address %q: %w", p.BindAddress, err)
	}
	switch p.DetectLocalMode {
	case modeClusterCIDR, modeNodeCIDR, "":
	case modeBridge:
		if p.DetectLocal.BridgeInterface == "" {
			return fmt.Errorf("--detect-local-mode=%s needs --pod-bridge-interface", p.DetectLocalMode)
		}
	case modePrefix:
		if p.DetectLocal.InterfaceNamePrefix == "" {
			return fmt.Errorf("--detect-local-mode=%s needs --pod-interface-name-prefix", p.DetectLocalMode)
		}
	default:
		return fmt.Errorf("--detect-local-mode %q: not ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix", p.DetectLocalMode)
	}
	if _, err := c.ClusterCIDRs(); err != nil {
		return err
	}
	if _, _, err := c.SNATPortRange(); err != nil {
		return err
	}
	if c.NorthSouth != "auto" && c.NorthSouth != "stack" {
		return fmt.Errorf("--north-south %q: not auto or stack", c.NorthSouth)
	}
	if !filepath.IsAbs(c.BPFRoot) {
		return fmt.Errorf("--bpf-root %q: not an absolute path", c.BPFRoot)
	}
	return nil
}

// ClusterCIDRs returns the pod addresses of the cluster, at most one prefix a family.
func (c *Config) ClusterCIDRs() ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, word := range strings.Split(c.Proxy.ClusterCIDR, ",") {
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(word)
		if err != nil {
			return nil, fmt.Errorf("--cluster-cidr %q: %w", word, err)
		}
		for _, p := range prefixes {
			if p.Addr().Is4() == prefix.Addr().Is4() {
				return nil, fmt.Errorf("--cluster-cidr %q: more than one of a family", c.Proxy.ClusterCIDR)
			}
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, nil
}

// PodsDetected reports whether pods of this node can be told from other clients: then they are inside
// clients (parity 4.2).
func (c *Config) PodsDetected() bool {
	mode := c.Proxy.DetectLocalMode
	return mode != "" && mode != modeClusterCIDR || strings.TrimSpace(c.Proxy.ClusterCIDR) != ""
}

// MasqueradeAll is that of the mode that the configuration is for.
func (c *Config) MasqueradeAll() bool {
	if c.Proxy.Mode == "nftables" {
		return c.Proxy.NFTables.MasqueradeAll
	}
	return c.Proxy.IPTables.MasqueradeAll
}

// SyncPeriod is how long after a failed write it is tried again, and half of how long health waits for it.
func (c *Config) SyncPeriod() time.Duration {
	period := c.Proxy.IPTables.SyncPeriod.Duration
	if c.Proxy.Mode == "nftables" {
		period = c.Proxy.NFTables.SyncPeriod.Duration
	}
	if period <= 0 {
		period = 30 * time.Second
	}
	return period
}

// LocalhostNodePorts reports whether NodePorts answer on the host's loopback addresses.
func (c *Config) LocalhostNodePorts() bool {
	return c.Proxy.IPTables.LocalhostNodePorts == nil || *c.Proxy.IPTables.LocalhostNodePorts
}

// SNATPortRange returns the first and the last source port for SNATed flows.
func (c *Config) SNATPortRange() (first, last uint16, err error) {
	if n, err := fmt.Sscanf(c.SNATPorts, "%d-%d", &first, &last); n != 2 || err != nil || first == 0 || first > last ||
		fmt.Sprintf("%d-%d", first, last) != c.SNATPorts {
		return 0, 0, fmt.Errorf("--snat-ports %q: not FIRST-LAST", c.SNATPorts)
	}
	return first, last, nil
}
