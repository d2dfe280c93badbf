package config

import (
	"net"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
	utilnet "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

const (
	healthPort  = 10256
	metricsPort = 10249

	modeIPTables v1alpha1.ProxyMode = "iptables"
	modeIPVS     v1alpha1.ProxyMode = "ipvs"
	modeNFTables v1alpha1.ProxyMode = "nftables"
	modeEBPF     v1alpha1.ProxyMode = "ebpf"
)

// setDefaults fills in what is zero, as kube-proxy's SetDefaults_KubeProxyConfiguration.
func setDefaults(p *v1alpha1.KubeProxyConfiguration) {
	setDefault(&p.BindAddress, "0.0.0.0")
	setDefaultAddresses(p)
	setDefault(&p.ClientConnection.ContentType, runtime.ContentTypeProtobuf)
	setDefault(&p.ClientConnection.QPS, 5)
	setDefault(&p.ClientConnection.Burst, 10)
	setPointer(&p.OOMScoreAdj, -999)
	setPointer(&p.IPTables.LocalhostNodePorts, true)
	setPointer(&p.IPTables.MasqueradeBit, 14)
	setPointer(&p.NFTables.MasqueradeBit, 14)
	setDefault(&p.IPTables.SyncPeriod.Duration, 30*time.Second)
	setDefault(&p.IPVS.SyncPeriod.Duration, 30*time.Second)
	setDefault(&p.NFTables.SyncPeriod.Duration, 30*time.Second)
	setDefault(&p.IPTables.MinSyncPeriod.Duration, time.Second)
	setDefault(&p.NFTables.MinSyncPeriod.Duration, time.Second)
	setDefault(&p.ConfigSyncPeriod.Duration, 15*time.Minute)
	setPointer(&p.Conntrack.MaxPerCore, 32<<10)
	setPointer(&p.Conntrack.Min, 128<<10)
	setPointer(&p.Conntrack.TCPEstablishedTimeout, metav1.Duration{Duration: 24 * time.Hour})
	setPointer(&p.Conntrack.TCPCloseWaitTimeout, metav1.Duration{Duration: time.Hour})
	logsapi.SetRecommendedLoggingConfiguration(&p.Logging)
}

// setDefaultAddresses: the family of bindAddress is that of the two servers' wildcard and loopback.
func setDefaultAddresses(p *v1alpha1.KubeProxyConfiguration) {
	wildcard, loopback := "0.0.0.0", "127.0.0.1"
	if ip := utilnet.ParseIPSloppy(p.BindAddress); ip != nil && ip.To4() == nil {
		wildcard, loopback = "::", "::1"
	}
	setDefault(&p.HealthzBindAddress, withPort(wildcard, healthPort))
	setDefault(&p.MetricsBindAddress, withPort(loopback, metricsPort))
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func setPointer[T any](field **T, value T) {
	if *field == nil {
		*field = ptr.To(value)
	}
}

// withPort adds the port that an address lacks. None stays none; what is no address will be refused.
func withPort(address string, port int) string {
	if address == "" {
		return ""
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		host, text = strings.Trim(address, "[]"), strconv.Itoa(port)
	}
	if ip := utilnet.ParseIPSloppy(host); ip != nil {
		host = ip.String()
	}
	return net.JoinHostPort(host, text)
}
