// Package config is what the agent is told: kube-proxy's flags and configuration file, by their names and
// meanings, and the few settings of our own.
package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
	utilnet "k8s.io/utils/net"
)

// Config is everything the agent is told. Proxy is kube-proxy's own type, with its defaults (parity 8).
type Config struct {
	Proxy v1alpha1.KubeProxyConfiguration
	Node  string // name of this node's Node object

	File    string // --config
	WriteTo string // --write-config-to: write the configuration there and end
	// Cleanup, InitOnly: do that and end. Version: print it and end.
	Cleanup, InitOnly, Version bool

	Master     string
	CgroupRoot string   // "": found
	BPFRoot    string   // a directory on a bpffs, ours alone
	Devices    []string // globs; none: found by role
	Manifests  string   // a folder instead of an API server
	NorthSouth string   // auto or stack
	Balancing  string   // random or maglev
	SNATPorts  string   // first-last

	AuditPeriod time.Duration // how often the tables are compared with what they should say; 0: never

	// Warnings are what was accepted but has no effect, and what the file had too much of; for the log.
	Warnings []string

	flags flags
	sum   [sha256.Size]byte // of File as it was read
}

// Ways to tell pods of this node from other clients (parity 4.2).
const (
	ModeClusterCIDR         v1alpha1.LocalMode = "ClusterCIDR"
	ModeNodeCIDR            v1alpha1.LocalMode = "NodeCIDR"
	ModeBridgeInterface     v1alpha1.LocalMode = "BridgeInterface"
	ModeInterfaceNamePrefix v1alpha1.LocalMode = "InterfaceNamePrefix"
)

// New returns the defaults.
func New() *Config {
	c := &Config{
		BPFRoot:    "/sys/fs/bpf/svcproxy",
		NorthSouth: "auto",
		Balancing:  "random",
		SNATPorts:  "11000-29999",

		AuditPeriod: time.Hour,
	}
	setDefaults(&c.Proxy)
	return c
}

// Complete reads the configuration file, fills in what depends on something else, and checks everything.
// The error names the flags or the fields. fs has been parsed with c's flags in it.
func (c *Config) Complete(fs *pflag.FlagSet) error {
	if c.File != "" {
		if err := c.load(fs); err != nil {
			return err
		}
	} else {
		c.takeFlags(fs)
	}
	if err := c.findNode(); err != nil {
		return err
	}
	p := &c.Proxy
	p.HealthzBindAddress = withPort(p.HealthzBindAddress, healthPort)
	p.MetricsBindAddress = withPort(p.MetricsBindAddress, metricsPort)
	if p.Mode == modeNFTables && len(p.NodePortAddresses) == 0 {
		p.NodePortAddresses = []string{"primary"}
	}
	if p.DetectLocalMode == "" {
		p.DetectLocalMode = ModeClusterCIDR
	}
	if err := c.validate(); err != nil {
		return err
	}
	c.warn(fs)
	return nil
}

// findNode makes Node the name of this node. The flag beats the file, whatever else the file beats.
func (c *Config) findNode() error {
	if c.flags.hostname != "" {
		c.Proxy.HostnameOverride = strings.ToLower(strings.TrimSpace(c.flags.hostname))
		if c.Proxy.HostnameOverride == "" {
			return errors.New("--hostname-override: is blank")
		}
	}
	name := c.Proxy.HostnameOverride
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return fmt.Errorf("read host name (set --hostname-override): %w", err)
		}
	}
	if c.Node = strings.ToLower(strings.TrimSpace(name)); c.Node == "" {
		return errors.New("the host name is empty: set --hostname-override")
	}
	return nil
}

// ClusterCIDRs returns the pod addresses of the cluster, at most one prefix a family; none where pods are
// not told by them.
func (c *Config) ClusterCIDRs() ([]netip.Prefix, error) {
	if c.Proxy.DetectLocalMode != ModeClusterCIDR {
		return nil, nil
	}
	var prefixes []netip.Prefix
	for _, word := range strings.Split(c.Proxy.ClusterCIDR, ",") {
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		_, cidr, err := utilnet.ParseCIDRSloppy(word)
		if err != nil {
			return nil, fmt.Errorf("clusterCIDR, --cluster-cidr %q: not a CIDR", word)
		}
		addr, _ := netip.AddrFromSlice(cidr.IP)
		bits, _ := cidr.Mask.Size()
		prefix := netip.PrefixFrom(addr, bits)
		for _, p := range prefixes {
			if p.Addr().Is4() == prefix.Addr().Is4() {
				return nil, fmt.Errorf("clusterCIDR, --cluster-cidr %q: more than one of a family", c.Proxy.ClusterCIDR)
			}
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}

// PodsDetected reports whether pods of this node can be told from other clients: then they are inside
// clients (parity 4.2).
func (c *Config) PodsDetected() bool {
	return c.Proxy.DetectLocalMode != ModeClusterCIDR || strings.TrimSpace(c.Proxy.ClusterCIDR) != ""
}

// NodeAddresses returns addrs, those of the Node object, as the configuration has it: bindAddress is the
// node's primary address if it is one.
func (c *Config) NodeAddresses(addrs []netip.Addr) []netip.Addr {
	bind := c.bindAddress()
	if !bind.IsValid() || bind.IsUnspecified() {
		return addrs
	}
	list := []netip.Addr{bind}
	for _, addr := range addrs {
		if addr != bind {
			list = append(list, addr)
		}
	}
	return list
}

func (c *Config) bindAddress() netip.Addr {
	addr, _ := netip.AddrFromSlice(utilnet.ParseIPSloppy(c.Proxy.BindAddress))
	return addr.Unmap()
}

// DetectsByClusterCIDR reports whether pods are told by their address, wherever they come from.
func (c *Config) DetectsByClusterCIDR() bool {
	mode := c.Proxy.DetectLocalMode
	return mode == "" || mode == ModeClusterCIDR
}

// MasqueradeAll is that of the mode that the configuration is for.
func (c *Config) MasqueradeAll() bool { return *c.masqueradeAll() }

func (c *Config) masqueradeAll() *bool {
	if c.Proxy.Mode == modeNFTables {
		return &c.Proxy.NFTables.MasqueradeAll
	}
	return &c.Proxy.IPTables.MasqueradeAll
}

// SyncPeriod is how long after a failed write it is tried again, and half of how long health waits for it; and
// how often programs and pins are looked for that somebody has removed.
func (c *Config) SyncPeriod() time.Duration {
	period, _ := c.syncPeriods()
	return period.Duration
}

// syncPeriods are those of the mode that the configuration is for.
func (c *Config) syncPeriods() (period, minimum *metav1.Duration) {
	p := &c.Proxy
	switch p.Mode {
	case modeNFTables:
		return &p.NFTables.SyncPeriod, &p.NFTables.MinSyncPeriod
	case modeIPVS:
		return &p.IPVS.SyncPeriod, &p.IPVS.MinSyncPeriod
	}
	return &p.IPTables.SyncPeriod, &p.IPTables.MinSyncPeriod
}

// syncPeriodNames returns how the names of syncPeriods' fields and flags begin. Mode nftables has no flags of
// its own.
func (c *Config) syncPeriodNames() (field, flag string) {
	switch c.Proxy.Mode {
	case modeNFTables:
		return "nftables", "iptables"
	case modeIPVS:
		return "ipvs", "ipvs"
	}
	return "iptables", "iptables"
}

// LocalhostNodePorts reports whether NodePorts answer on the host's loopback addresses.
func (c *Config) LocalhostNodePorts() bool { return *c.Proxy.IPTables.LocalhostNodePorts }

// ExternalIPs reports whether Services' externalIPs are served.
func (c *Config) ExternalIPs() bool {
	on, ok := c.Proxy.FeatureGates[gateExternalIPs]
	return on || !ok
}

// FlowTimeouts is how long the data path remembers flows that say nothing.
type FlowTimeouts struct {
	TCPEstablished time.Duration
	TCPCloseWait   time.Duration // one side has closed
	UDP            time.Duration // not answered yet
	UDPStream      time.Duration
}

// FlowTimeouts returns those that nf_conntrack is given too. What is 0, left alone there, is the
// kernel's own default here.
func (c *Config) FlowTimeouts() FlowTimeouts {
	or := func(d, kernel time.Duration) time.Duration {
		if d == 0 {
			return kernel
		}
		return d
	}
	ct := &c.Proxy.Conntrack
	return FlowTimeouts{
		TCPEstablished: or(ct.TCPEstablishedTimeout.Duration, 5*24*time.Hour),
		TCPCloseWait:   or(ct.TCPCloseWaitTimeout.Duration, time.Minute),
		UDP:            or(ct.UDPTimeout.Duration, 30*time.Second),
		UDPStream:      or(ct.UDPStreamTimeout.Duration, 120*time.Second),
	}
}

// SNATPortRange returns the first and the last source port for SNATed flows.
func (c *Config) SNATPortRange() (first, last uint16, err error) {
	if n, err := fmt.Sscanf(c.SNATPorts, "%d-%d", &first, &last); n != 2 || err != nil || first == 0 || first > last ||
		fmt.Sprintf("%d-%d", first, last) != c.SNATPorts {
		return 0, 0, fmt.Errorf("--snat-ports %q: not FIRST-LAST", c.SNATPorts)
	}
	return first, last, nil
}
