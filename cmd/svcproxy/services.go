package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/svcproxy/svcproxy/pkg/reconcile"
)

func newServicesCommand() *cobra.Command {
	var l look
	cmd := &cobra.Command{
		Use:   "services",
		Short: "What clients can dial on this node, and who answers; read from the kernel",
		Long: `Lists the frontends in the kernel's tables, one line each.

INSIDE is what processes of the node get, and pods if a local detector is configured; OUTSIDE is what
everybody else gets: a number of backends, "reject" (nobody answers, clients are told) or "drop" (there
are backends, but the policy wants one on this node).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			snapshot, err := l.snapshot()
			if err != nil {
				return err
			}
			t := &table{columns: []column{{"SERVICE", false}, {"KIND", false}, {"FRONTEND", false}, {"INSIDE", false}, {"OUTSIDE", false},
				{"ID", true}, {"AFFINITY", true}, {"INSIDE BACKENDS", true}, {"OUTSIDE BACKENDS", true}}}
			for _, s := range snapshot.Services {
				for _, f := range s.Frontends {
					affinity := "-"
					if f.AffinitySeconds > 0 {
						affinity = fmt.Sprintf("%ds", f.AffinitySeconds)
					}
					t.add(s.Name, f.Kind, f.Address.String()+"/"+f.Protocol, answer(f.Inside), answer(f.Outside),
						fmt.Sprint(s.ID), affinity, addresses(f.Inside.Backends), addresses(f.Outside.Backends))
				}
			}
			return l.print(cmd.OutOrStdout(), snapshot, t)
		},
	}
	l.addFlags(cmd)
	return cmd
}

// snapshot reads the tables.
func (l *look) snapshot() (*reconcile.Snapshot, error) {
	view, err := l.open()
	if err != nil {
		return nil, err
	}
	defer view.Close()
	return reconcile.Read(view)
}

func answer(p reconcile.PoolEntry) string {
	if p.Verdict == "serve" {
		return fmt.Sprint(len(p.Backends))
	}
	return p.Verdict
}

func addresses(list []netip.AddrPort) string {
	if len(list) == 0 {
		return "-"
	}
	var words []string
	for _, a := range list {
		words = append(words, a.String())
	}
	return strings.Join(words, ",")
}

// backendLine is a backend beside its Service, as `backends -o json` prints it.
type backendLine struct {
	Service  string `json:"service"`
	Protocol string `json:"protocol"`
	reconcile.BackendEntry
	Frontends int `json:"frontends"` // that it may answer
}

func newBackendsCommand() *cobra.Command {
	var l look
	cmd := &cobra.Command{
		Use:   "backends",
		Short: "Who may answer, in what state, and for how many frontends; read from the kernel",
		Long: `Lists the backends in the kernel's tables. One that answers 0 frontends is known, and keeps the flows
it has, but gets no new ones: it is terminating, or the policy or topology prefers others.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			snapshot, err := l.snapshot()
			if err != nil {
				return err
			}
			lines := []backendLine{}
			t := &table{columns: []column{{"SERVICE", false}, {"BACKEND", false}, {"NODE", false}, {"STATE", false}, {"FRONTENDS", false},
				{"ID", true}, {"GENERATION", true}}}
			for _, s := range snapshot.Services {
				for _, b := range s.Backends {
					line := backendLine{Service: s.Name, Protocol: s.Protocol, BackendEntry: b, Frontends: answers(s, b.Address)}
					lines = append(lines, line)
					t.add(s.Name, b.Address.String()+"/"+s.Protocol, place(b), condition(b), fmt.Sprint(line.Frontends),
						fmt.Sprint(b.ID), fmt.Sprint(b.Generation))
				}
			}
			return l.print(cmd.OutOrStdout(), lines, t)
		},
	}
	l.addFlags(cmd)
	return cmd
}

// answers counts the frontends that a backend may answer, from inside or outside.
func answers(s reconcile.ServiceEntry, backend netip.AddrPort) (n int) {
	for _, f := range s.Frontends {
		for _, a := range append(append([]netip.AddrPort(nil), f.Inside.Backends...), f.Outside.Backends...) {
			if a == backend {
				n++
				break
			}
		}
	}
	return n
}

func place(b reconcile.BackendEntry) string {
	if b.Local {
		return "this"
	}
	return "other"
}

func condition(b reconcile.BackendEntry) string {
	switch {
	case b.Terminating && b.Serving:
		return "terminating,serving"
	case b.Terminating:
		return "terminating"
	case b.Ready:
		return "ready"
	}
	return "serving"
}
