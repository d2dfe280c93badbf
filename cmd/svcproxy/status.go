package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/reconcile"
)

// status is what `svcproxy status` shows: what is in the kernel, whether or not an agent runs.
type status struct {
	BPFRoot  string              `json:"bpfRoot"`
	Agent    string              `json:"agent"`  // who runs; "": nobody
	Cgroup   string              `json:"cgroup"` // whose processes are served
	Hooks    []string            `json:"socketHooks"`
	Uplinks  []bpf.AttachedLink  `json:"uplinks"`
	Services int                 `json:"services"` // Service ports
	Fronts   int                 `json:"frontends"`
	Backends int                 `json:"backends"`
	Tables   map[string]bpf.Fill `json:"tables"`
	Events   map[string]uint64   `json:"events"`
	Problems []string            `json:"problems,omitempty"`
}

func newStatusCommand() *cobra.Command {
	var l look
	cmd := &cobra.Command{
		Use:   "status",
		Short: "One screen: what is attached where, how full the tables are, what was counted",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			view, err := l.open()
			if err != nil {
				return err
			}
			defer view.Close()
			s, err := readStatus(view, l.root)
			if err != nil {
				return err
			}
			t := &table{columns: []column{{"WHAT", false}, {"VALUE", false}}}
			t.add("bpf root", s.BPFRoot)
			t.add("agent", cmp.Or(s.Agent, "none"))
			t.add("cgroup", s.Cgroup)
			t.add("socket hooks", fmt.Sprint(s.Hooks))
			for _, u := range s.Uplinks {
				t.add("uplink "+u.Name, fmt.Sprintf("%v, SNAT %v %v", u.Programs, u.SNAT4, u.SNAT6))
			}
			t.add("service ports", fmt.Sprint(s.Services))
			t.add("frontends", fmt.Sprint(s.Fronts))
			t.add("backends", fmt.Sprint(s.Backends))
			for _, name := range slices.Sorted(maps.Keys(s.Tables)) {
				t.add("table "+name, fmt.Sprintf("%d of %d", s.Tables[name].Entries, s.Tables[name].Limit))
			}
			for _, name := range slices.Sorted(maps.Keys(s.Events)) {
				if s.Events[name] > 0 || l.format == "wide" {
					t.add("event "+name, fmt.Sprint(s.Events[name]))
				}
			}
			for _, p := range s.Problems {
				t.add("problem", p)
			}
			return l.print(cmd.OutOrStdout(), s, t)
		},
	}
	l.addFlags(cmd)
	return cmd
}

func readStatus(view *bpf.View, root string) (*status, error) {
	s := &status{BPFRoot: root}
	snapshot, err := reconcile.Read(view)
	if err != nil {
		return nil, err
	}
	s.Services, s.Problems = len(snapshot.Services), snapshot.Problems
	for _, service := range snapshot.Services {
		s.Fronts += len(service.Frontends)
		s.Backends += len(service.Backends)
	}
	if s.Tables, err = view.FillByTable(); err != nil {
		return nil, err
	}
	if s.Events, err = view.Counters(); err != nil {
		return nil, err
	}
	if s.Agent, err = bpf.Claimed(root); err != nil {
		return nil, err
	}
	if s.Cgroup, s.Hooks, err = view.AttachedHooks(); err != nil {
		return nil, err
	}
	s.Uplinks, err = view.AttachedLinks()
	return s, err
}
