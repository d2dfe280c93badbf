package bpf

import (
	"log/slog"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// Features is what the running kernel offers beyond Linux 5.10. Everything works without them.
type Features struct {
	SetRetval   bool // bpf_set_retval, 5.18: refuse with the right errno; else by a closed loopback port
	CoarseClock bool // bpf_ktime_get_coarse_ns, 5.11: cheaper time stamps
	TCX         bool // 6.6: ordered attachment beside other programs; else clsact filters
	IPv6        bool // the kernel has IPv6 sockets
}

// ProbeFeatures asks the kernel.
func ProbeFeatures() Features {
	_, err := os.Stat("/proc/net/if_inet6")
	return Features{
		SetRetval:   features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) == nil,
		CoarseClock: features.HaveProgramHelper(ebpf.SchedCLS, asm.FnKtimeGetCoarseNs) == nil,
		TCX:         haveTCX(),
		IPv6:        err == nil,
	}
}

// LogValue says what was chosen.
func (f Features) LogValue() slog.Value {
	choose := func(have bool, yes, no string) string {
		if have {
			return yes
		}
		return no
	}
	return slog.GroupValue(
		slog.String("refuse", choose(f.SetRetval, "bpf_set_retval", "closed loopback port")),
		slog.String("clock", choose(f.CoarseClock, "coarse", "precise")),
		slog.String("attach", choose(f.TCX, "tcx", "clsact")),
		slog.Bool("ipv6", f.IPv6),
	)
}
