package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

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
sockets go on. Refused while the agent runs. With --snat-ports as the agent had it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cleanUp(cmd.Context(), c, cmd.OutOrStdout()) },
	}
	cmd.Flags().StringVar(&c.BPFRoot, "bpf-root", c.BPFRoot, "the agent's --bpf-root")
	cmd.Flags().StringVar(&c.SNATPorts, "snat-ports", c.SNATPorts, "the agent's --snat-ports")
	return cmd
}

// cleanUp removes what is ours from the node, and says so.
func cleanUp(ctx context.Context, c *config.Config, w io.Writer) error {
	first, last, err := c.SNATPortRange()
	if err != nil {
		return err
	}
	if _, err := os.Stat(c.BPFRoot); err == nil {
		claim, err := bpf.ClaimRoot(ctx, c.BPFRoot, claimPatience)
		if err != nil {
			return err
		}
		defer claim.Release()
	}
	if err := errors.Join(bpf.Cleanup(c.BPFRoot), node.ReleasePorts(first, last)); err != nil {
		return err
	}
	fmt.Fprintln(w, "nothing of svcproxy is left below", c.BPFRoot, "and on this node's links")
	return nil
}
