package config

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/pflag"
)

// warn adds a line for each setting that says something, and has no effect.
func (c *Config) warn(fs *pflag.FlagSet) {
	p, defaults := &c.Proxy, &New().Proxy
	l := &p.Logging
	field, flag := c.syncPeriodNames()
	_, minimum := c.syncPeriods()
	minimumDefault := time.Second
	if p.Mode == modeIPVS {
		minimumDefault = 0
	}
	const (
		atOnce   = "changes are written at once"
		noMark   = "packets are not marked"
		noIPVS   = "there is no IPVS"
		noBuffer = "each line of the log is written to stderr at once"
	)
	for _, s := range []struct {
		name    string
		changed bool
		because string
	}{
		{"mode (--proxy-mode)", p.Mode != "" && p.Mode != modeEBPF, fmt.Sprintf("Services are served by eBPF; %s chooses defaults only", p.Mode)},
		{fmt.Sprintf("%s.minSyncPeriod (--%s-min-sync-period)", field, flag), minimum.Duration != minimumDefault, atOnce},
		{"iptables.masqueradeBit (--iptables-masquerade-bit)", *p.IPTables.MasqueradeBit != *defaults.IPTables.MasqueradeBit, noMark},
		{"nftables.masqueradeBit", *p.NFTables.MasqueradeBit != *defaults.NFTables.MasqueradeBit, noMark},
		{"ipvs.scheduler (--ipvs-scheduler)", p.IPVS.Scheduler != "", "backends are chosen at random"},
		{"ipvs.excludeCIDRs (--ipvs-exclude-cidrs)", len(p.IPVS.ExcludeCIDRs) > 0, noIPVS},
		{"ipvs.strictARP (--ipvs-strict-arp)", p.IPVS.StrictARP, "no link of the node gets the Services' addresses, so nobody answers ARP for them"},
		{"ipvs.tcpTimeout (--ipvs-tcp-timeout)", p.IPVS.TCPTimeout.Duration != 0, noIPVS},
		{"ipvs.tcpFinTimeout (--ipvs-tcpfin-timeout)", p.IPVS.TCPFinTimeout.Duration != 0, noIPVS},
		{"ipvs.udpTimeout (--ipvs-udp-timeout)", p.IPVS.UDPTimeout.Duration != 0, noIPVS},
		{"configSyncPeriod (--config-sync-period)", p.ConfigSyncPeriod != defaults.ConfigSyncPeriod, "what is watched is not read again"},
		{"portRange", p.PortRange != "", "it was the userspace mode's"},
		{"showHiddenMetricsForVersion (--show-hidden-metrics-for-version)", p.ShowHiddenMetricsForVersion != "", "no metrics are hidden"},
		{"logging.flushFrequency (--log-flush-frequency)", l.FlushFrequency.Duration != defaults.Logging.FlushFrequency.Duration, noBuffer},
		{"logging.options.text.splitStream (--log-text-split-stream)", l.Options.Text.SplitStream, noBuffer},
		{"logging.options.text.infoBufferSize (--log-text-info-buffer-size)", l.Options.Text.InfoBufferSize.Value() != 0, noBuffer},
		{"logging.options.json.splitStream (--log-json-split-stream)", l.Options.JSON.SplitStream, noBuffer},
		{"logging.options.json.infoBufferSize (--log-json-info-buffer-size)", l.Options.JSON.InfoBufferSize.Value() != 0, noBuffer},
		{"--" + unusedFlags[0], fs.Changed(unusedFlags[0]), "nothing reads it"},
		{"--" + unusedFlags[1], fs.Changed(unusedFlags[1]), "nothing reads it"},
	} {
		if s.changed {
			c.Warnings = append(c.Warnings, s.name+" has no effect: "+s.because)
		}
	}
	for _, gate := range slices.Sorted(maps.Keys(p.FeatureGates)) {
		switch {
		case gate == gateExternalIPs:
		case knownGate(gate):
			c.Warnings = append(c.Warnings, fmt.Sprintf("featureGates.%s (--feature-gates) has no effect: what it changes is not in svcproxy", gate))
		default:
			c.Warnings = append(c.Warnings, fmt.Sprintf("featureGates.%s (--feature-gates) is not known: ignored", gate))
		}
	}
}
