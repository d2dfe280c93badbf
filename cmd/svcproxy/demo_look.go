package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// look shows what the commands show that are for looking, on node-a.
func (d *demo) look() error {
	node := d.Nodes[0]
	d.out.section("What node-a's kernel holds", "Read from its tables, with or without an agent.")
	for _, l := range []struct {
		command *cobra.Command
		why     string
		kind    []int // the columns that say of which kind a line is
	}{
		{newServicesCommand(), "what can be dialled there, and how many answer", []int{0, 1, 2}},
		{newFlowsCommand(), "connections from outside: the first of each kind", []int{0, 1, 3, 4}},
	} {
		var text bytes.Buffer
		l.command.SetOut(&text)
		l.command.SetArgs([]string{"--bpf-root", node.BPFRoot})
		if err := l.command.Execute(); err != nil {
			return fmt.Errorf("svcproxy %s: %w", l.command.Name(), err)
		}
		d.out.line("\n  svcproxy %s    %s\n", l.command.Name(), l.why)
		d.excerpt(text.String(), l.kind)
	}
	return nil
}

// excerpt shows the heading and the first line of each kind.
func (d *demo) excerpt(table string, columns []int) {
	seen := map[string]bool{}
	left := 0
	for line := range strings.Lines(table) {
		words := strings.Fields(line)
		kind := ""
		for _, c := range columns {
			kind += words[c] + " "
		}
		if seen[kind] {
			left++
			continue
		}
		seen[kind] = true
		d.out.line("%s", strings.TrimRight(line, " \n"))
	}
	if left > 0 {
		d.out.line("... and %d like them", left)
	}
}

// invite says how to look around, and leaves a script for each host to do something there.
func (d *demo) invite() error {
	for _, h := range d.Hosts() {
		// Sockets are translated by cgroup, so being in the network namespace alone is not being there.
		script := fmt.Sprintf("#!/bin/sh\necho $$ >%s/cgroup.procs && exec nsenter --net=/proc/%d/ns/net -- \"$@\"\n", h.Cgroup, h.HandPID())
		if err := os.WriteFile(filepath.Join(d.dir, h.Name), []byte(script), 0o755); err != nil {
			return err
		}
	}
	d.out.section("The cluster stays until Ctrl-C", "In another terminal, as root:")
	d.out.line(`
  cd %s

  ./pod-a2 bash -c 'head -1 </dev/tcp/10.96.0.10/80'          do something as a host: there is such a
  ./client-1 bash -c 'head -1 </dev/tcp/172.30.0.11/30080'    script for each, with its cgroup and nsenter
  ls manifests; tail -f node-a.log                            change the YAML: the agents follow`, d.dir)
	d.out.line("\nNetworks alone, and what is in the kernel:\n")
	for _, h := range d.Hosts() {
		d.out.line("  nsenter --net=/proc/%d/ns/net ip address    # %s", h.HandPID(), h.Name)
	}
	d.out.line("")
	for _, n := range d.Nodes {
		d.out.line("  svcproxy services --bpf-root %s", n.BPFRoot)
	}
	d.out.line("\nalso: backends, flows, status; -o wide, -o json")
	return nil
}
