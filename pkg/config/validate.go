package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
	utilnet "k8s.io/utils/net"
)

// refusals are what is wrong with the configuration.
type refusals []error

// unless refuses the value of a setting, unless ok says that it is of the kind that it must be.
func (r *refusals) unless(ok bool, setting string, value any, kind string) {
	if !ok {
		*r = append(*r, fmt.Errorf("%s %#v: not %s", setting, value, kind))
	}
}

// duration refuses one that is below the least.
func (r *refusals) duration(setting string, d, least time.Duration) {
	if d < least {
		*r = append(*r, fmt.Errorf("%s %v: less than %v", setting, d, least))
	}
}

// validate checks what kube-proxy's validation.Validate does, and our own settings.
func (c *Config) validate() error {
	var r refusals
	c.validateServers(&r)
	c.validateModes(&r)
	c.validatePeriods(&r)
	c.validateNode(&r)
	validateLogging(&r, &c.Proxy.Logging)
	_, err := c.ClusterCIDRs()
	r = append(r, err)
	_, _, err = c.SNATPortRange()
	r = append(r, err)
	r.unless(c.NorthSouth == "auto" || c.NorthSouth == "stack", "--north-south", c.NorthSouth, "auto or stack")
	r.unless(c.Balancing == "random" || c.Balancing == "maglev", "--load-balancing", c.Balancing, "random or maglev")
	r.unless(c.AuditPeriod >= 0, "--audit-period", c.AuditPeriod, "0 or more")
	r.unless(filepath.IsAbs(c.BPFRoot), "--bpf-root", c.BPFRoot, "an absolute path")
	return errors.Join(r...)
}

func (c *Config) validateServers(r *refusals) {
	p := &c.Proxy
	r.unless(utilnet.ParseIPSloppy(p.BindAddress) != nil, "bindAddress, --bind-address", p.BindAddress, "an IP address")
	r.unless(addressAndPort(p.HealthzBindAddress), "healthzBindAddress, --healthz-bind-address", p.HealthzBindAddress, "IP:port or empty")
	r.unless(addressAndPort(p.MetricsBindAddress), "metricsBindAddress, --metrics-bind-address", p.MetricsBindAddress, "IP:port or empty")
	r.unless(p.ClientConnection.Burst >= 0, "clientConnection.burst, --kube-api-burst", p.ClientConnection.Burst, "0 or more")
}

func addressAndPort(text string) bool {
	if text == "" {
		return true
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && utilnet.ParseIPSloppy(host) != nil
}

func (c *Config) validateModes(r *refusals) {
	p := &c.Proxy
	switch p.Mode {
	case "", modeIPTables, modeNFTables, modeIPVS, modeEBPF:
	default:
		r.unless(false, "mode, --proxy-mode", string(p.Mode), "iptables, nftables, ipvs, ebpf or empty")
	}
	r.unless(p.Winkernel == (v1alpha1.KubeProxyWinkernelConfiguration{}), "winkernel", p.Winkernel, "empty on Linux")
	r.unless(!p.WindowsRunAsService, "windowsRunAsService", p.WindowsRunAsService, "false on Linux")
	validateBit(r, "iptables.masqueradeBit, --iptables-masquerade-bit", p.IPTables.MasqueradeBit)
	if p.Mode == modeNFTables {
		validateBit(r, "nftables.masqueradeBit", p.NFTables.MasqueradeBit)
	}
	if p.Mode == modeIPVS {
		r.duration("ipvs.tcpTimeout, --ipvs-tcp-timeout", p.IPVS.TCPTimeout.Duration, 0)
		r.duration("ipvs.tcpFinTimeout, --ipvs-tcpfin-timeout", p.IPVS.TCPFinTimeout.Duration, 0)
		r.duration("ipvs.udpTimeout, --ipvs-udp-timeout", p.IPVS.UDPTimeout.Duration, 0)
		for _, cidr := range p.IPVS.ExcludeCIDRs {
			_, _, err := utilnet.ParseCIDRSloppy(cidr)
			r.unless(err == nil, "ipvs.excludeCIDRs, --ipvs-exclude-cidrs", cidr, "a CIDR")
		}
	}
	switch p.DetectLocalMode {
	case ModeClusterCIDR, ModeNodeCIDR:
	case ModeBridgeInterface:
		r.unless(p.DetectLocal.BridgeInterface != "", "detectLocal.bridgeInterface, --pod-bridge-interface", "", "a name: detectLocalMode, --detect-local-mode=BridgeInterface needs one")
	case ModeInterfaceNamePrefix:
		r.unless(p.DetectLocal.InterfaceNamePrefix != "", "detectLocal.interfaceNamePrefix, --pod-interface-name-prefix", "", "the beginning of a name: detectLocalMode, --detect-local-mode=InterfaceNamePrefix needs one")
	default:
		r.unless(false, "detectLocalMode, --detect-local-mode", string(p.DetectLocalMode), "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix")
	}
}

func validateBit(r *refusals, setting string, bit *int32) {
	r.unless(*bit >= 0 && *bit <= 31, setting, *bit, "0 to 31")
}

func (c *Config) validatePeriods(r *refusals) {
	p := &c.Proxy
	field, flag := c.syncPeriodNames()
	period, minimum := c.syncPeriods()
	r.duration(field+".minSyncPeriod, --"+flag+"-min-sync-period", minimum.Duration, 0)
	r.duration(field+".syncPeriod, --"+flag+"-sync-period", period.Duration, max(1, minimum.Duration))
	r.duration("configSyncPeriod, --config-sync-period", p.ConfigSyncPeriod.Duration, 1)
}

func (c *Config) validateNode(r *refusals) {
	p, ct := &c.Proxy, &c.Proxy.Conntrack
	r.unless(*p.OOMScoreAdj >= -1000 && *p.OOMScoreAdj <= 1000, "oomScoreAdj, --oom-score-adj", *p.OOMScoreAdj, "-1000 to 1000")
	r.unless(*ct.MaxPerCore >= 0, "conntrack.maxPerCore, --conntrack-max-per-core", *ct.MaxPerCore, "0 or more")
	r.unless(*ct.Min >= 0, "conntrack.min, --conntrack-min", *ct.Min, "0 or more")
	r.duration("conntrack.tcpEstablishedTimeout, --conntrack-tcp-timeout-established", ct.TCPEstablishedTimeout.Duration, 0)
	r.duration("conntrack.tcpCloseWaitTimeout, --conntrack-tcp-timeout-close-wait", ct.TCPCloseWaitTimeout.Duration, 0)
	r.duration("conntrack.udpTimeout, --conntrack-udp-timeout", ct.UDPTimeout.Duration, 0)
	r.duration("conntrack.udpStreamTimeout, --conntrack-udp-timeout-stream", ct.UDPStreamTimeout.Duration, 0)
}

func validateLogging(r *refusals, l *logsapi.LoggingConfiguration) {
	r.unless(l.Format == logsapi.DefaultLogFormat || l.Format == logsapi.JSONLogFormat, "logging.format, --logging-format", l.Format, "text or json")
	r.unless(l.Verbosity <= math.MaxInt32, "logging.verbosity, -v", l.Verbosity, "a number of 31 bits")
	r.duration("logging.flushFrequency, --log-flush-frequency", l.FlushFrequency.Duration.Duration, 1)
	for _, m := range l.VModule {
		_, err := filepath.Match(m.FilePattern, "")
		r.unless(err == nil && m.FilePattern != "" && !strings.ContainsAny(m.FilePattern, "=,"), "logging.vmodule, --vmodule", m.FilePattern, "the name of a source file, or a glob")
		r.unless(m.Verbosity <= math.MaxInt32, "logging.vmodule, --vmodule", m.Verbosity, "a number of 31 bits")
	}
}
