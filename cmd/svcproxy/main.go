// Command svcproxy makes Kubernetes Services work with eBPF, beside any CNI, in place of kube-proxy.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

func main() {
	testenv.Main() // the hosts of the demo's cluster each have a process of this program
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "svcproxy:", err)
		os.Exit(1)
	}
}

// Noun commands show what is, from the kernel's maps; verbs do something.
func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "svcproxy",
		Short: "Kubernetes Services by eBPF, beside any CNI, in place of kube-proxy",
		Long: `svcproxy makes ClusterIPs, NodePorts, load balancer and external IPs lead to their backends. Processes of
the node and its pods are translated once, when they connect; packets from outside are translated at the
links that lead out of the node. No iptables, no nftables, no IPVS, no CNI of its own.

  svcproxy demo                         a small cluster of network namespaces, real requests, no set-up
  svcproxy run --kubeconfig FILE        the agent, one on each node, in place of kube-proxy
  svcproxy services                     what clients can dial on this node, and who answers`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(newRunCommand(), newDemoCommand(), newStatusCommand(), newServicesCommand(), newBackendsCommand(),
		newFlowsCommand(), newCleanupCommand(), newVersionCommand())
	return root
}
