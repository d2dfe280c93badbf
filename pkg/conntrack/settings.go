// Package conntrack looks after the kernel's own connection tracking as kube-proxy does: our data path does
// without it, but what passes through the node beside us (a CNI's masquerading, kubelet, firewalls) counts on
// the limits and timeouts that kube-proxy's settings give it, and what it remembers of kube-proxy's
// rules goes on when these have gone.
package conntrack

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// Setting is a number that a file of the kernel is to hold.
type Setting struct {
	Name    string // as errors and logs say it
	Path    string
	Value   int
	AtLeast bool // a larger number may stay
	// Global: one for all network namespaces, so the kernel lets only the first of them write it.
	Global bool
}

// maxEntries bounds nf_conntrack_max, for the memory of nodes with many processors.
const maxEntries = 1 << 20

// Settings returns what c asks of a node with so many processors, in the order in which to write it (§6.3).
func Settings(c v1alpha1.KubeProxyConntrackConfiguration, processors int) []Setting {
	var list []Setting
	if entries := limit(c, processors); entries > 0 {
		list = append(list,
			Setting{Name: "net.netfilter.nf_conntrack_max", Path: sysctls + "nf_conntrack_max", Value: entries, Global: true},
			Setting{Name: "nf_conntrack hashsize", Path: "/sys/module/nf_conntrack/parameters/hashsize", Value: entries / 4, AtLeast: true, Global: true})
	}
	timeout := func(name string, d time.Duration) {
		if d > 0 {
			list = append(list, sysctl(name, int(d/time.Second)))
		}
	}
	timeout("nf_conntrack_tcp_timeout_established", value(c.TCPEstablishedTimeout))
	timeout("nf_conntrack_tcp_timeout_close_wait", value(c.TCPCloseWaitTimeout))
	if c.TCPBeLiberal {
		list = append(list, sysctl("nf_conntrack_tcp_be_liberal", 1))
	}
	timeout("nf_conntrack_udp_timeout", c.UDPTimeout.Duration)
	timeout("nf_conntrack_udp_timeout_stream", c.UDPStreamTimeout.Duration)
	return list
}

// limit is nf_conntrack_max; 0: to be left alone. Without maxPerCore, min says nothing.
func limit(c v1alpha1.KubeProxyConntrackConfiguration, processors int) int {
	if c.MaxPerCore == nil || *c.MaxPerCore <= 0 {
		return 0
	}
	scaled := int(*c.MaxPerCore) * processors
	if scaled > maxEntries {
		return maxEntries
	}
	if c.Min != nil {
		scaled = max(scaled, int(*c.Min)) // which the bound is not for
	}
	return scaled
}

func sysctl(name string, value int) Setting {
	return Setting{Name: "net.netfilter." + name, Path: sysctls + name, Value: value}
}

func value(d *metav1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.Duration
}
