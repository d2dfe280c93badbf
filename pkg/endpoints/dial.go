package endpoints

import (
	"cmp"
	"net/netip"
	"strings"
	"time"
)

// Claim is a Service port's claim to an address, port and protocol that others may claim as well.
type Claim struct {
	Kind    Kind
	Created time.Time // of the Service
	Port    PortName
}

// Compare is negative if c has precedence over d. An IP has it over a NodePort (§0), then the older
// Service, then the lesser name.
func (c Claim) Compare(d Claim) int {
	if nodePort := c.Kind == NodePort; nodePort != (d.Kind == NodePort) {
		if nodePort {
			return 1
		}
		return -1
	}
	return cmp.Or(
		c.Created.Compare(d.Created),
		c.Port.ObjectName.Compare(d.Port.ObjectName),
		strings.Compare(c.Port.Port, d.Port.Port),
	)
}

// Dial is [Resolved.Answer] of all Services of a node together: the answer of the one whose claim to
// what is dialled has precedence.
func Dial(all []Resolved, client Client, protocol Protocol, dial netip.AddrPort) (Answer, bool) {
	var first *Resolved
	var best Claim
	for i := range all {
		r := &all[i]
		if r.Port.Protocol != protocol {
			continue
		}
		f := r.frontend(client, dial)
		if f == nil {
			continue
		}
		c := Claim{Kind: f.Kind, Created: r.Created, Port: r.Port}
		if first == nil || c.Compare(best) < 0 {
			first, best = r, c
		}
	}
	if first == nil {
		return Answer{}, false
	}
	return first.Answer(client, dial)
}
