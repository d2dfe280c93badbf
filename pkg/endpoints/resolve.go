package endpoints

import "slices"

// Resolve says for each port of svc who may answer which frontend, seen from view. The result is in the
// order of svc.Ports and does not depend on the order of the slices nor of the endpoints in them.
//
// Slices of other Services are ignored, and so is what cannot be served: addresses that nobody can dial
// or answer from, port 0, unknown protocols, a second port of one name and protocol. A Service without
// a usable ClusterIP has no family to exist in and resolves to nothing.
func Resolve(svc *Service, all []*Slice, view *View) []Resolved {
	fam := familiesOf(svc, view)
	if !fam.exist() {
		return nil
	}
	resolved := make([]Resolved, 0, len(svc.Ports))
	var scratch []candidate
	for i := range svc.Ports {
		p := &svc.Ports[i]
		if !servable(svc.Ports, i) {
			continue
		}
		r := Resolved{
			Port:      PortName{ObjectName: svc.Name, Port: p.Name, Protocol: p.Protocol},
			Created:   svc.Created,
			Affinity:  max(svc.Affinity, 0),
			Maglev:    svc.Balancing == Maglev || svc.Balancing == Default && view.Balancing == Maglev,
			Frontends: frontends(svc, &fam, p, view),
		}
		scratch = gather(scratch[:0], &r.Port, &fam, all, view)
		r.Backends = backends(scratch)
		r.Pools = pools(r.Frontends, scratch, view)
		resolved = append(resolved, r)
	}
	return resolved
}

// servable reports whether ports[i] is a port that packets can have, and the first of its name.
func servable(ports []Port, i int) bool {
	p := &ports[i]
	if p.Port == 0 || (p.Protocol != TCP && p.Protocol != UDP && p.Protocol != SCTP) {
		return false
	}
	return !slices.ContainsFunc(ports[:i], func(q Port) bool {
		return q.Name == p.Name && q.Protocol == p.Protocol && q.Port != 0
	})
}
