package watch

import (
	"time"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// sink is where both sources pour their objects: into the state, with a report of what is wrong.
type sink struct {
	state  *State
	report *reporter
	node   string // our own node's name
}

func (s *sink) nodeKey() key { return key{kindNode, endpoints.ObjectName{Name: s.node}} }

// apply makes the edits visible at once. Nodes that are not ours are nobody's business here.
func (s *sink) apply(edits ...edit) { s.applySince(time.Time{}, edits...) }

// applySince is apply for edits whose event was decoded at that time.
func (s *sink) applySince(decoded time.Time, edits ...edit) {
	ours := make([]edit, 0, len(edits))
	for _, e := range edits {
		if e.key.kind == kindNode && e.key != s.nodeKey() {
			continue
		}
		ours = append(ours, e)
		var problems []error
		if e.object != nil {
			problems = e.object.problems
		}
		s.report.report(e.key, problems)
	}
	s.state.applySince(decoded, ours...)
}
