package config

import (
	"time"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// flags are those of kube-proxy that are not a field of the configuration, or not one alone.
type flags struct {
	hostname                          string
	clusterCIDR                       string
	masqueradeAll                     bool
	syncPeriod, minSyncPeriod         time.Duration // of --iptables-*
	ipvsSyncPeriod, ipvsMinSyncPeriod time.Duration
	healthPort, metricsPort           int
	unused                            [2]string
}

// AddFlags adds the flags of `svcproxy run`. The kube-proxy ones keep their names, meanings and defaults.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc) // --machine_id_file
	c.addCommandFlags(fs)
	c.addServerFlags(fs)
	c.addServiceFlags(fs)
	c.addNodeFlags(fs)
	c.addLoggingFlags(fs)
	c.addUnusedFlags(fs)
	c.addOwnFlags(fs)
}

func (c *Config) addCommandFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.File, "config", "", "kube-proxy's configuration file (kubeproxy.config.k8s.io/v1alpha1), as kubeadm's ConfigMap has it; the flags of kube-proxy are then ignored, but for --hostname-override, --master and those of the log. When it changes, we end with an error, to be started again")
	fs.StringVar(&c.WriteTo, "write-config-to", "", "write the configuration, with its defaults, to this file and end")
	fs.BoolVar(&c.Cleanup, "cleanup", false, "remove all that is ours from the node and end: svcproxy cleanup")
	fs.BoolVar(&c.InitOnly, "init-only", false, "load the programs and set the sysctls, which may need more rights than serving, and end")
	fs.BoolVar(&c.Version, "version", false, "print the version and end")
}

func (c *Config) addServerFlags(fs *pflag.FlagSet) {
	p := &c.Proxy
	fs.StringVar(&p.ClientConnection.Kubeconfig, "kubeconfig", "", "path of a kubeconfig; name the API server's own address in it, not the ClusterIP that we serve ourselves")
	fs.StringVar(&c.Master, "master", "", "URL of the API server, instead of the kubeconfig's")
	fs.StringVar(&p.ClientConnection.ContentType, "kube-api-content-type", p.ClientConnection.ContentType, "how we speak to the API server")
	fs.Float32Var(&p.ClientConnection.QPS, "kube-api-qps", p.ClientConnection.QPS, "requests a second to the API server")
	fs.Int32Var(&p.ClientConnection.Burst, "kube-api-burst", p.ClientConnection.Burst, "burst of requests to the API server")
	fs.Var(cliflag.NewMapStringBool(&p.FeatureGates), "feature-gates", "GATE=true|false,...: AllowServiceExternalIPs=false leaves externalIPs out; the other gates of Kubernetes have no effect")

	fs.StringVar(&c.flags.hostname, "hostname-override", "", "name of this node's Node object (default: the host name)")
	fs.StringVar(&p.BindAddress, "bind-address", p.BindAddress, "overrides the node's primary address; its family chooses the defaults of the two addresses below")
	fs.StringVar(&p.HealthzBindAddress, "healthz-bind-address", p.HealthzBindAddress, "address of /healthz, /livez and /readyz; empty: off")
	fs.StringVar(&p.MetricsBindAddress, "metrics-bind-address", p.MetricsBindAddress, "address of /metrics; empty: off")
	fs.IntVar(&c.flags.healthPort, "healthz-port", healthPort, "the port if --healthz-bind-address names none; 0: off")
	fs.IntVar(&c.flags.metricsPort, "metrics-port", metricsPort, "the port if --metrics-bind-address names none; 0: off")
	fs.BoolVar(&p.BindAddressHardFail, "bind-address-hard-fail", false, "end if one of these addresses cannot be listened on, instead of trying again")
	fs.BoolVar(&p.EnableProfiling, "profiling", false, "pprof on the metrics address")
	fs.Int32Var(p.OOMScoreAdj, "oom-score-adj", *p.OOMScoreAdj, "how late we are killed when memory is short: -1000, never, to 1000")
}

func (c *Config) addServiceFlags(fs *pflag.FlagSet) {
	p := &c.Proxy
	fs.StringVar((*string)(&p.Mode), "proxy-mode", "", "the mode that the other settings were made for: it chooses defaults, and nothing else. iptables, nftables, ipvs or ebpf")
	fs.StringVar((*string)(&p.DetectLocalMode), "detect-local-mode", string(ModeClusterCIDR), "how pods of this node are told from others: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix")
	fs.StringVar(&c.flags.clusterCIDR, "cluster-cidr", "", "pod addresses of the cluster, for --detect-local-mode=ClusterCIDR; two, separated by a comma, in a dual-stack cluster")
	fs.StringVar(&p.DetectLocal.BridgeInterface, "pod-bridge-interface", "", "the bridge of this node's pods, for --detect-local-mode=BridgeInterface")
	fs.StringVar(&p.DetectLocal.InterfaceNamePrefix, "pod-interface-name-prefix", "", "how the names of pods' links begin, for --detect-local-mode=InterfaceNamePrefix")
	fs.StringSliceVar(&p.NodePortAddresses, "nodeport-addresses", nil, "CIDRs of the node addresses on which NodePorts answer, or primary, all, localhost (default: all; with --proxy-mode=nftables: primary)")
	fs.BoolVar(p.IPTables.LocalhostNodePorts, "iptables-localhost-nodeports", true, "NodePorts answer on 127.0.0.1 and [::1] of the host as well")
	fs.BoolVar(&c.flags.masqueradeAll, "masquerade-all", false, "backends of ClusterIPs see the node's address in the place of the client's; pods then connect by packets, not at their sockets")
	period, minimum := c.syncPeriods()
	fs.DurationVar(&c.flags.syncPeriod, "iptables-sync-period", period.Duration, "how long after a failed write it is tried again, and how often removed programs and pins are looked for")
	fs.DurationVar(&c.flags.minSyncPeriod, "iptables-min-sync-period", minimum.Duration, "has no effect: changes are written at once")
	fs.DurationVar(&c.flags.ipvsSyncPeriod, "ipvs-sync-period", period.Duration, "--iptables-sync-period for --proxy-mode=ipvs")
	fs.DurationVar(&c.flags.ipvsMinSyncPeriod, "ipvs-min-sync-period", 0, "has no effect: changes are written at once")
}

func (c *Config) addNodeFlags(fs *pflag.FlagSet) {
	ct := &c.Proxy.Conntrack
	fs.Int32Var(ct.MaxPerCore, "conntrack-max-per-core", *ct.MaxPerCore, "nf_conntrack_max for each processor; 0: left alone")
	fs.Int32Var(ct.Min, "conntrack-min", *ct.Min, "the least nf_conntrack_max, unless --conntrack-max-per-core is 0")
	fs.DurationVar(&ct.TCPEstablishedTimeout.Duration, "conntrack-tcp-timeout-established", ct.TCPEstablishedTimeout.Duration, "how long idle TCP connections are remembered; 0: nf_conntrack's is left alone")
	fs.DurationVar(&ct.TCPCloseWaitTimeout.Duration, "conntrack-tcp-timeout-close-wait", ct.TCPCloseWaitTimeout.Duration, "how long TCP connections are that one side has closed")
	fs.BoolVar(&ct.TCPBeLiberal, "conntrack-tcp-be-liberal", false, "set nf_conntrack_tcp_be_liberal")
	fs.DurationVar(&ct.UDPTimeout.Duration, "conntrack-udp-timeout", 0, "how long UDP flows without an answer are remembered; 0: nf_conntrack's is left alone")
	fs.DurationVar(&ct.UDPStreamTimeout.Duration, "conntrack-udp-timeout-stream", 0, "how long UDP flows with answers are; 0: nf_conntrack's is left alone")
}

func (c *Config) addLoggingFlags(fs *pflag.FlagSet) {
	l := &c.Proxy.Logging
	fs.VarP(logsapi.VerbosityLevelPflag(&l.Verbosity), "v", "v", "log verbosity; 4 and more: every change")
	fs.Var(logsapi.VModuleConfigurationPflag(&l.VModule), "vmodule", "FILE=VERBOSITY,...: the verbosity of single source files; a name without .go, or a glob")
	fs.StringVar(&l.Format, "logging-format", l.Format, "text or json")
	fs.DurationVar(&l.FlushFrequency.Duration.Duration, "log-flush-frequency", l.FlushFrequency.Duration.Duration, "has no effect: each line is written at once")
	fs.BoolVar(&l.Options.Text.SplitStream, "log-text-split-stream", false, "has no effect: the log goes to stderr")
	fs.Var(&l.Options.Text.InfoBufferSize, "log-text-info-buffer-size", "has no effect: each line is written at once")
	fs.BoolVar(&l.Options.JSON.SplitStream, "log-json-split-stream", false, "has no effect: the log goes to stderr")
	fs.Var(&l.Options.JSON.InfoBufferSize, "log-json-info-buffer-size", "has no effect: each line is written at once")
}

// addUnusedFlags adds what is accepted because somebody's manifest has it.
func (c *Config) addUnusedFlags(fs *pflag.FlagSet) {
	p := &c.Proxy
	const none = "has no effect"
	fs.Int32Var(p.IPTables.MasqueradeBit, "iptables-masquerade-bit", *p.IPTables.MasqueradeBit, none)
	fs.StringVar(&p.IPVS.Scheduler, "ipvs-scheduler", "", none)
	fs.StringSliceVar(&p.IPVS.ExcludeCIDRs, "ipvs-exclude-cidrs", nil, none)
	fs.BoolVar(&p.IPVS.StrictARP, "ipvs-strict-arp", false, none)
	fs.DurationVar(&p.IPVS.TCPTimeout.Duration, "ipvs-tcp-timeout", 0, none)
	fs.DurationVar(&p.IPVS.TCPFinTimeout.Duration, "ipvs-tcpfin-timeout", 0, none)
	fs.DurationVar(&p.IPVS.UDPTimeout.Duration, "ipvs-udp-timeout", 0, none)
	fs.DurationVar(&p.ConfigSyncPeriod.Duration, "config-sync-period", p.ConfigSyncPeriod.Duration, none)
	fs.StringVar(&p.ShowHiddenMetricsForVersion, "show-hidden-metrics-for-version", "", none)
	for i, name := range unusedFlags {
		fs.StringVar(&c.flags.unused[i], name, "", none)
	}
}

// unusedFlags are cAdvisor's, which kube-proxy has by accident.
var unusedFlags = [2]string{"boot-id-file", "machine-id-file"}

func (c *Config) addOwnFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.CgroupRoot, "cgroup-root", "", "cgroup2 directory whose processes we serve (default: found)")
	fs.StringVar(&c.BPFRoot, "bpf-root", c.BPFRoot, "directory on a bpffs for what outlives us; one for each agent on a kernel, a second one there does not start")
	fs.DurationVar(&c.AuditPeriod, "audit-period", c.AuditPeriod, "how often the kernel's tables are compared with what they should say, and what others have changed is put right; 0: never")
	fs.StringSliceVar(&c.Devices, "devices", nil, "names or globs of the links that lead out of the node (default: found by default route, node address, and path to other nodes' pods)")
	fs.StringVar(&c.Manifests, "manifests", "", "serve the Services and EndpointSlices of the YAML files in this folder, watched, without an API server")
	fs.StringVar(&c.NorthSouth, "north-south", c.NorthSouth, "how packets to other nodes' backends go: auto (straight from link to link where possible) or stack (all through the kernel's stack, for firewalls that must see them)")
	fs.StringVar(&c.Balancing, "load-balancing", c.Balancing, "how new connections find a backend: random, or maglev (packets of one client address and port reach the same backend whatever node they come by, and most still do when backends change; 131 kB a Service port); the annotation svcproxy.io/load-balancing on a Service decides for it")
	fs.StringVar(&c.SNATPorts, "snat-ports", c.SNATPorts, "first and last source port for connections passed on to other nodes; kept out of net.ipv4.ip_local_port_range and the NodePorts")
}

// besideFile are the flags that count beside a configuration file: ours, and those that kube-proxy reads there too.
var besideFile = map[string]bool{
	"config": true, "write-config-to": true, "cleanup": true, "init-only": true, "version": true, "master": true, "hostname-override": true,
	"v": true, "vmodule": true, "logging-format": true, "log-flush-frequency": true,
	"log-text-split-stream": true, "log-text-info-buffer-size": true, "log-json-split-stream": true, "log-json-info-buffer-size": true,
	"cgroup-root": true, "bpf-root": true, "devices": true, "manifests": true, "north-south": true, "load-balancing": true, "audit-period": true, "snat-ports": true,
}

// takeFlags makes Proxy what the flags say: where one stands for fields of several modes, it is of the mode
// that they are for.
func (c *Config) takeFlags(fs *pflag.FlagSet) {
	p := &c.Proxy
	defaults := v1alpha1.KubeProxyConfiguration{BindAddress: p.BindAddress}
	setDefaultAddresses(&defaults)
	p.HealthzBindAddress = serverAddress(fs, "healthz-bind-address", defaults.HealthzBindAddress, c.flags.healthPort)
	p.MetricsBindAddress = serverAddress(fs, "metrics-bind-address", defaults.MetricsBindAddress, c.flags.metricsPort)
	p.ClusterCIDR = c.flags.clusterCIDR
	*c.masqueradeAll() = c.flags.masqueradeAll
	period, minimum := c.syncPeriods()
	period.Duration, minimum.Duration = c.flags.syncPeriod, c.flags.minSyncPeriod
	if p.Mode == modeIPVS {
		period.Duration, minimum.Duration = c.flags.ipvsSyncPeriod, c.flags.ipvsMinSyncPeriod
	}
}

// serverAddress is what flag says, or value if it says nothing; port is that of the deprecated flag beside it.
func serverAddress(fs *pflag.FlagSet, flag, value string, port int) string {
	if port == 0 {
		return ""
	}
	if fs.Changed(flag) {
		value = fs.Lookup(flag).Value.String()
	}
	return withPort(value, port)
}
