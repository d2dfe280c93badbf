package endpoints

import "slices"

// hints is how topology hints narrow the Cluster set (parity §2.3): all or nothing. One ready endpoint
// without a hint, or none that is meant for us, and everybody may use everything.
type hints struct {
	node, zone string // keep what is meant for that node, else for that zone; both "": keep all
}

// hintsOf asks the ready candidates of one family.
func hintsOf(candidates []candidate, view *View) hints {
	nodes, zones := view.Node != "", view.Zone != "" // each ready one has such hints
	node, zone := false, false                       // one of them is meant for us
	for i := range candidates {
		c := &candidates[i]
		if !c.Ready {
			continue
		}
		nodes = nodes && len(c.endpoint.Nodes) > 0
		zones = zones && len(c.endpoint.Zones) > 0
		if !nodes && !zones {
			return hints{}
		}
		node = node || slices.Contains(c.endpoint.Nodes, view.Node)
		zone = zone || slices.Contains(c.endpoint.Zones, view.Zone)
	}
	switch {
	case nodes && node:
		return hints{node: view.Node}
	case zones && zone:
		return hints{zone: view.Zone}
	}
	return hints{}
}

func (h hints) keep(e *Endpoint) bool {
	switch {
	case h.node != "":
		return slices.Contains(e.Nodes, h.node)
	case h.zone != "":
		return slices.Contains(e.Zones, h.zone)
	}
	return true
}
