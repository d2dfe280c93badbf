package endpoints

import (
	"net/netip"
	"slices"
)

// LocalEndpoints returns for each family how many addresses on this node have a ready endpoint of svc,
// on whichever of its ports: what the healthCheckNodePort reports. 0 in a family that svc lacks.
func LocalEndpoints(svc *Service, all []*Slice, view *View) (ipv4, ipv6 int) {
	fam := familiesOf(svc, view)
	if !fam.exist() {
		return 0, 0
	}
	var scratch []candidate
	var local []netip.Addr
	for i := range svc.Ports {
		if !servable(svc.Ports, i) {
			continue
		}
		p := PortName{ObjectName: svc.Name, Port: svc.Ports[i].Name, Protocol: svc.Ports[i].Protocol}
		scratch = gather(scratch[:0], &p, &fam, all, view)
		for j := range scratch {
			if c := &scratch[j]; c.Local && c.Ready {
				local = append(local, c.Addr.Addr())
			}
		}
	}
	slices.SortFunc(local, netip.Addr.Compare)
	for _, addr := range slices.Compact(local) {
		if addr.Is4() {
			ipv4++
		} else {
			ipv6++
		}
	}
	return ipv4, ipv6
}
