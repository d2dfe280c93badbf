package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/config"
	"github.com/svcproxy/svcproxy/pkg/health"
	"github.com/svcproxy/svcproxy/pkg/metrics"
	"github.com/svcproxy/svcproxy/pkg/node"
	"github.com/svcproxy/svcproxy/pkg/reconcile"
	"github.com/svcproxy/svcproxy/pkg/watch"
)

func newRunCommand() *cobra.Command {
	c := config.New()
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Serve this node: the agent, in place of kube-proxy",
		Long: `Watches Services, EndpointSlices and this node's Node object, and programs the kernel.

Programs, links and tables outlive the process: Services keep working while the agent is restarted,
upgraded, or down. "svcproxy cleanup" removes them. /readyz on the health address answers 200 once the
first full sync is in the kernel. A second agent with the same --bpf-root does not start.

What others change or remove in the kernel is put back: programs and pins as often as
--iptables-sync-period says, the contents of the tables by --audit-period. SIGUSR1 looks at both at once.

  svcproxy run --kubeconfig /etc/kubernetes/proxy.conf --cluster-cidr 10.244.0.0/16
  svcproxy run --config /var/lib/kube-proxy/config.conf --hostname-override $NODE_NAME
  svcproxy run --manifests ./manifests      Services and EndpointSlices from YAML files, no API server`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch c.Version {
			case config.VersionTrue:
				newVersionCommand().Run(cmd, nil)
				return nil
			case config.VersionRaw:
				fmt.Fprintf(cmd.OutOrStdout(), "%#v\n", rawVersion())
				return nil
			}
			if err := c.Complete(cmd.Flags()); err != nil {
				return err
			}
			log, err := newAgentLogger(&c.Proxy.Logging, os.Stderr)
			if err != nil {
				return err
			}
			for _, warning := range c.Warnings {
				log.Warn("configuration", "problem", warning)
			}
			switch {
			case c.WriteTo != "":
				return c.Write(c.WriteTo)
			case c.Cleanup:
				return cleanUp(cmd.Context(), c, cmd.OutOrStdout())
			case c.InitOnly:
				return initOnly(cmd.Context(), c, log)
			}
			flags := make(map[string]string)
			cmd.Flags().VisitAll(func(f *pflag.Flag) { flags[f.Name] = f.Value.String() })
			return run(cmd.Context(), c, flags, log)
		},
	}
	c.AddFlags(cmd.Flags())
	return cmd
}

// run builds the chain watch → model → reconciler → kernel and serves until ctx is done. It leaves the
// kernel as it is: the data path works without us. Flags are shown to who asks.
func run(ctx context.Context, c *config.Config, flags map[string]string, log *slog.Logger) error {
	log.Info("starting", "version", version, "revision", revision(), "node", c.Node)
	policy, err := node.ParseNodePortPolicy(c.Proxy.NodePortAddresses)
	if err != nil {
		return fmt.Errorf("--nodeport-addresses: %w", err)
	}
	if c.CgroupRoot == "" {
		if c.CgroupRoot, err = config.FindCgroupRoot(); err != nil {
			return err
		}
	}
	if err := checkCgroup(c.CgroupRoot); err != nil {
		return fmt.Errorf("--cgroup-root %s: %w", c.CgroupRoot, err)
	}
	setOOMScore(*c.Proxy.OOMScoreAdj, log)
	if err := prepareNode(c, log); err != nil {
		return err
	}
	claim, err := bpf.ClaimRoot(ctx, c.BPFRoot, claimPatience)
	if err != nil {
		return err
	}
	defer claim.Release()
	group, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); _ = group.Wait() }() // its error, if any, has been returned
	client, events, err := connect(ctx, c, log)
	if err != nil {
		return err
	}
	// The lists are read while the kernel verifies the programs: both take long.
	state := watch.NewState()
	group.Go(func() error { return watchServices(ctx, c, client, state, log) })

	datapath, err := loadDatapath(c, log)
	if err != nil {
		return err
	}
	defer datapath.Close()
	reconciler := reconcile.New(datapath, log)
	if err := reconciler.Adopt(); err != nil {
		return err
	}
	links, err := node.New(c.Devices, log)
	if err != nil {
		return fmt.Errorf("--devices: %w", err)
	}

	m := metrics.New(version, revision())
	m.RegisterEvents(datapath)
	m.RegisterTables(tableFill{datapath})
	proxyHealth := health.NewProxy(health.Options{Timeout: 2 * c.SyncPeriod(), Now: time.Now, Answered: m.HealthAnswered})
	configz, err := c.Configz()
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	pages := metrics.Pages{Configz: configz, Flags: flags, Version: version, Profiling: c.Proxy.EnableProfiling}

	a := &agent{
		claim:  claim,
		config: c, log: log, policy: policy, datapath: datapath, reconciler: reconciler, links: links,
		state: state, health: proxyHealth, metrics: m,
		nodeKnown: make(chan struct{}), stale: make(chan struct{}, 1), tracked: make(chan struct{}, 1),
		auditRead: make(chan error, 1), checkNow: make(chan os.Signal, 1),
	}
	signal.Notify(a.checkNow, unix.SIGUSR1)
	defer signal.Stop(a.checkNow)
	a.consequences = newConsequences(a, events)
	defer a.consequences.checks.Close()
	events.aboutNode(v1.EventTypeNormal, reasonStarting, actionStart, "")

	group.Go(func() error { return c.WatchFile(ctx) })
	group.Go(func() error { a.watchLinks(ctx); return nil })
	group.Go(func() error { return a.run(ctx) })
	group.Go(func() error { return a.collectFlows(ctx) })
	group.Go(func() error { return a.destroySockets(ctx) })
	group.Go(func() error { return a.cleanConntrack(ctx) })
	for reason, server := range map[string]health.Server{
		reasonHealthFailed:  {Name: "health", Address: c.Proxy.HealthzBindAddress, Handler: proxyHealth.Handler()},
		reasonMetricsFailed: {Name: "metrics", Address: c.Proxy.MetricsBindAddress, Handler: m.NewMux(pages, log)},
	} {
		server.HardFail, server.Log = c.Proxy.BindAddressHardFail, log
		group.Go(func() error {
			err := server.Run(ctx)
			if err != nil {
				events.lastWords(reason, err.Error())
			}
			return err
		})
	}
	err = group.Wait()
	log.Info("stopped; the data path stays", "bpfRoot", c.BPFRoot)
	return err
}

// claimPatience is how long an agent that begins waits for another one on its way out.
const claimPatience = 3 * time.Second

// checkCgroup says now what attaching would say later, and in words.
func checkCgroup(path string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return err
	}
	if uint32(fs.Type) != unix.CGROUP2_SUPER_MAGIC {
		return errors.New("not a cgroup2 directory")
	}
	return nil
}

func loadDatapath(c *config.Config, log *slog.Logger) (*bpf.Datapath, error) {
	first, last, err := c.SNATPortRange()
	if err != nil {
		return nil, err
	}
	err = node.ReservePorts(first, last)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		log.Warn("source ports not reserved, sockets that bind them will clash with forwarded connections", "error", err)
	} else if err != nil {
		return nil, fmt.Errorf("--snat-ports: %w", err)
	}
	var clusterCIDRs []netip.Prefix
	if c.DetectsByClusterCIDR() {
		if clusterCIDRs, err = c.ClusterCIDRs(); err != nil {
			return nil, err
		}
	}
	features := bpf.ProbeFeatures()
	log.Info("kernel", "features", features, "cgroupRoot", c.CgroupRoot, "bpfRoot", c.BPFRoot)
	timeouts := c.FlowTimeouts()
	return bpf.Load(bpf.Options{
		TCPEstablishedTimeout: timeouts.TCPEstablished, TCPHalfClosedTimeout: timeouts.TCPCloseWait, UDPTimeout: timeouts.UDPStream,
		Root: c.BPFRoot, ClusterCIDRs: clusterCIDRs, PodsInside: c.PodsDetected(), ForceStack: c.NorthSouth == "stack", MasqueradeAll: c.MasqueradeAll(),
		FirstSNATPort: first, LastSNATPort: last, Features: features,
	})
}

// tableFill offers the tables' fill to the metrics.
type tableFill struct{ *bpf.Datapath }

func (t tableFill) Tables() ([]metrics.Table, error) {
	fill, err := t.FillByTable()
	if err != nil {
		return nil, err
	}
	var list []metrics.Table
	for name, f := range fill {
		list = append(list, metrics.Table{Name: name, Entries: f.Entries, Limit: f.Limit})
	}
	return list, nil
}
