package endpoints

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// The tables are text: "10.0.0.1 local leaving zone=a,b node=n1" is an endpoint, and
// "ipv4 cluster: serve 10.0.0.1:80" a pool.

var web = ObjectName{Namespace: "shop", Name: "web"}

// here is a node that has everything. Its NodePorts answer on one address of each family and on loopback.
func here() *View {
	return &View{Node: "here", Zone: "zone-a", NodePorts: mustAddrs("192.168.0.1", "fd00::1", "127.0.0.1", "::1")}
}

func mustAddrs(list ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, s := range list {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs
}

func mustPrefixes(list ...string) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, s := range list {
		prefixes = append(prefixes, netip.MustParsePrefix(s))
	}
	return prefixes
}

// mustEndpoint parses an address and words. Without words it is a running pod on another node. The
// states are those of the table in parity §2.1.
func mustEndpoint(t testing.TB, text string) Endpoint {
	t.Helper()
	words := strings.Fields(text)
	e := Endpoint{Addr: netip.MustParseAddr(words[0]), Node: "elsewhere", Ready: true, Serving: true}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "local":
			e.Node = "here"
		case "nodeless":
			e.Node = ""
		case "unready":
			e.Ready, e.Serving = false, false
		case "leaving": // deleted, still answers
			e.Ready, e.Terminating = false, true
		case "gone": // deleted, no longer answers
			e.Ready, e.Serving, e.Terminating = false, false, true
		case "published": // deleted, no longer answers, publishNotReadyAddresses
			e.Serving, e.Terminating = false, true
		case "odd": // serving, but neither ready nor terminating
			e.Ready = false
		case "zone":
			e.Zones = strings.Split(value, ",")
		case "node":
			e.Nodes = strings.Split(value, ",")
		default:
			t.Fatalf("endpoint %q: unknown word %q", text, word)
		}
	}
	return e
}

// mustSlice makes a slice of the Service web with one TCP port without a name.
func mustSlice(t testing.TB, port uint16, endpoints ...string) *Slice {
	t.Helper()
	s := &Slice{Name: ObjectName{web.Namespace, "web-1"}, Service: web, Ports: []SlicePort{{Protocol: TCP, Port: port}}}
	for _, text := range endpoints {
		s.Endpoints = append(s.Endpoints, mustEndpoint(t, text))
		s.IPv6 = s.Endpoints[0].Addr.Is6()
	}
	return s
}

func poolsText(r Resolved) []string {
	var lines []string
	for _, p := range r.Pools {
		family := "ipv4"
		if p.Name.IPv6 {
			family = "ipv6"
		}
		line := fmt.Sprintf("%s %s: %s", family, p.Name.Scope, p.Verdict)
		for _, i := range p.Backends {
			line += " " + r.Backends[i].Addr.String()
		}
		lines = append(lines, line)
	}
	return lines
}

func backendsText(r Resolved) []string {
	var lines []string
	for _, b := range r.Backends {
		line := b.Addr.String()
		for _, flag := range []struct {
			set  bool
			name string
		}{{b.Local, "local"}, {b.Ready, "ready"}, {b.Serving, "serving"}, {b.Terminating, "terminating"}} {
			if flag.set {
				line += " " + flag.name
			}
		}
		lines = append(lines, line)
	}
	return lines
}

func frontendsText(r Resolved) []string {
	var lines []string
	for _, f := range r.Frontends {
		line := fmt.Sprintf("%s %s %s/%s", f.Kind, netip.AddrPortFrom(f.Addr, f.Port), f.Inside, f.Outside)
		if f.HostOnly {
			line += " host-only"
		}
		if f.NoSocket {
			line += " no-socket"
		}
		for _, p := range f.SourceRanges {
			line += " " + p.String()
		}
		lines = append(lines, line)
	}
	return lines
}

func answerText(a Answer, ours bool) string {
	if !ours {
		return "not ours"
	}
	line := a.Verdict.String()
	for _, b := range a.Backends {
		line += " " + b.Addr.String()
	}
	return line
}

// mustOne returns the only element of what Resolve returned.
func mustOne(t testing.TB, resolved []Resolved) Resolved {
	t.Helper()
	if len(resolved) != 1 {
		t.Fatalf("got %d resolved ports, want 1: %v", len(resolved), resolved)
	}
	return resolved[0]
}
