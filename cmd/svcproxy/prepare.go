package main

import (
	"context"
	"log/slog"
	"os"
	"strconv"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/config"
	"github.com/svcproxy/svcproxy/pkg/conntrack"
)

// prepareNode sets what kube-proxy sets on a node before it serves.
func prepareNode(c *config.Config, log *slog.Logger) error {
	return conntrack.Apply(conntrack.Settings(c.Proxy.Conntrack, conntrack.Processors()), log)
}

// initOnly does what may need more rights than serving: the sysctls, and the programs that the agent finds
// pinned when it is started without these rights.
func initOnly(ctx context.Context, c *config.Config, log *slog.Logger) error {
	if err := prepareNode(c, log); err != nil {
		return err
	}
	claim, err := bpf.ClaimRoot(ctx, c.BPFRoot, claimPatience)
	if err != nil {
		return err
	}
	defer claim.Release()
	datapath, err := loadDatapath(c, log)
	if err != nil {
		return err
	}
	return datapath.Close()
}

// setOOMScore says how late we are to be killed for memory. That it cannot be said is no reason not to serve.
func setOOMScore(score int32, log *slog.Logger) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(int(score))), 0); err != nil {
		log.Info("OOM score not set", "score", score, "error", err)
	}
}
