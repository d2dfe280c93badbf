package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/config"
	"github.com/svcproxy/svcproxy/pkg/node"
)

func newCleanupCommand() *cobra.Command {
	c := config.New()
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove every program, link, map, pin, qdisc and sysctl of ours from this node",
		Long: `Stops serving: connections from outside that are passed on to other nodes end; those that were made at
sockets go on. Stop the agent first. With --snat-ports as the agent had it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			first, last, err := c.SNATPortRange()
			if err != nil {
				return err
			}
			err = errors.Join(bpf.Cleanup(c.BPFRoot), node.ReleasePorts(first, last))
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing of svcproxy is left below", c.BPFRoot, "and on this node's links")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&c.BPFRoot, "bpf-root", c.BPFRoot, "the agent's --bpf-root")
	cmd.Flags().StringVar(&c.SNATPorts, "snat-ports", c.SNATPorts, "the agent's --snat-ports")
	return cmd
}
