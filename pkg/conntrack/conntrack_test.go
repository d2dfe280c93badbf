package conntrack

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
	"k8s.io/utils/ptr"
)

func seconds(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Second} }

// The rules of §6.3; the limits are those of kube-proxy's TestGetConntrackMax.
func TestSettings(t *testing.T) {
	limits := func(entries int) []Setting {
		return []Setting{
			{Name: "net.netfilter.nf_conntrack_max", Path: sysctls + "nf_conntrack_max", Value: entries, Global: true},
			{Name: "nf_conntrack hashsize", Path: "/sys/module/nf_conntrack/parameters/hashsize", Value: entries / 4, AtLeast: true, Global: true},
		}
	}
	perCore := func(n, min int32) v1alpha1.KubeProxyConntrackConfiguration {
		return v1alpha1.KubeProxyConntrackConfiguration{MaxPerCore: ptr.To(n), Min: ptr.To(min)}
	}
	for _, tc := range []struct {
		name       string
		config     v1alpha1.KubeProxyConntrackConfiguration
		processors int
		want       []Setting
	}{
		{"nothing", v1alpha1.KubeProxyConntrackConfiguration{}, 4, nil},
		{"min alone says nothing", v1alpha1.KubeProxyConntrackConfiguration{Min: ptr.To[int32](1000)}, 4, nil},
		{"min is ignored with 0 a core", perCore(0, 1000), 4, nil},
		{"min", perCore(1, 123456), 4, limits(123456)},
		{"scaled", perCore(38400, 131072), 4, limits(153600)},
		{"scaled without min", v1alpha1.KubeProxyConntrackConfiguration{MaxPerCore: ptr.To[int32](10)}, 4, limits(40)},
		{"just the bound", perCore(32768, 131072), 32, limits(1048576)},
		{"more than the bound", perCore(32768, 131072), 64, limits(1048576)},
		{"min is not bounded", perCore(1, 2000000), 4, limits(2000000)},
		{"min does not beat the bound once scaled does", perCore(32768, 2000000), 64, limits(1048576)},
		{"timeouts", v1alpha1.KubeProxyConntrackConfiguration{
			TCPEstablishedTimeout: ptr.To(seconds(86400)), TCPCloseWaitTimeout: ptr.To(seconds(3600)), TCPBeLiberal: true,
			UDPTimeout: seconds(31), UDPStreamTimeout: seconds(121),
		}, 4, []Setting{
			sysctl("nf_conntrack_tcp_timeout_established", 86400),
			sysctl("nf_conntrack_tcp_timeout_close_wait", 3600),
			sysctl("nf_conntrack_tcp_be_liberal", 1),
			sysctl("nf_conntrack_udp_timeout", 31),
			sysctl("nf_conntrack_udp_timeout_stream", 121),
		}},
		{"0 leaves timeouts alone", v1alpha1.KubeProxyConntrackConfiguration{
			TCPEstablishedTimeout: ptr.To(seconds(0)), TCPCloseWaitTimeout: ptr.To(seconds(0)),
		}, 4, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Settings(tc.config, tc.processors)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// What is right already, or larger where that may stay, is not touched: not even opened for writing.
func TestApplyWritesTheDifference(t *testing.T) {
	for _, tc := range []struct {
		name, have string
		setting    Setting
		want, log  string
	}{
		{"equal", "7\n", Setting{Value: 7}, "7\n", ""},
		{"raised", "7\n", Setting{Value: 9}, "9", "level=INFO"},
		{"lowered", "7\n", Setting{Value: 5}, "5", "level=INFO"},
		{"large enough", "7\n", Setting{Value: 5, AtLeast: true}, "7\n", ""},
		{"not large enough", "7\n", Setting{Value: 9, AtLeast: true}, "9", "level=INFO"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, []byte(tc.have), 0o600); err != nil {
				t.Fatal(err)
			}
			tc.setting.Name, tc.setting.Path = "the.setting", path
			log, err := apply(tc.setting)
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tc.want || !strings.Contains(log, tc.log) || tc.log == "" && log != "" {
				t.Errorf("file %q, log %q; want %q, %q", got, log, tc.want, tc.log)
			}
		})
	}
}

func apply(settings ...Setting) (string, error) {
	var log bytes.Buffer
	err := Apply(settings, slog.New(slog.NewTextHandler(&log, nil)))
	return log.String(), err
}

// In a network namespace of its own, as the agent of a container or of a test: what belongs to it is set,
// what belongs to all of them is a warning.
func TestApplyInANamespace(t *testing.T) {
	host := mustRead(t, sysctls+"nf_conntrack_max")
	runtime.LockOSThread() // never unlocked: the thread, and the namespace with it, end with this goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	config := v1alpha1.KubeProxyConntrackConfiguration{
		MaxPerCore: ptr.To[int32](99), Min: ptr.To[int32](99999),
		TCPEstablishedTimeout: ptr.To(seconds(54321)), TCPCloseWaitTimeout: ptr.To(seconds(3601)), TCPBeLiberal: true,
		UDPTimeout: seconds(33), UDPStreamTimeout: seconds(133),
	}
	settings := Settings(config, 2)
	log, err := apply(settings...)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range settings[2:] {
		got[filepath.Base(s.Path)] = mustRead(t, s.Path)
	}
	want := map[string]string{
		"nf_conntrack_tcp_timeout_established": "54321", "nf_conntrack_tcp_timeout_close_wait": "3601",
		"nf_conntrack_tcp_be_liberal": "1", "nf_conntrack_udp_timeout": "33", "nf_conntrack_udp_timeout_stream": "133",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if !strings.Contains(log, "level=WARN") || !strings.Contains(log, "net.netfilter.nf_conntrack_max") {
		t.Errorf("no warning names nf_conntrack_max:\n%s", log)
	}
	outside := make(chan string) // from a thread that has not left
	go func() {
		text, err := os.ReadFile(sysctls + "nf_conntrack_max")
		outside <- fmt.Sprint(strings.TrimSpace(string(text)), err)
	}()
	if now := <-outside; now != host+"<nil>" {
		t.Errorf("the host's nf_conntrack_max has changed from %s to %s", host, now)
	}
	if log, err := apply(settings[2:]...); log != "" || err != nil {
		t.Errorf("applied again: error %v, log %s", err, log)
	}
}

func TestApplyErrors(t *testing.T) {
	missing := Setting{Name: "net.netfilter.nf_none", Path: "/proc/sys/net/netfilter/nf_none", Value: 1}
	if log, err := apply(missing); err != nil || !strings.Contains(log, "nf_none") {
		t.Errorf("not in the kernel: error %v, log %q", err, log)
	}
	sealed := Setting{Name: "kernel.osrelease", Path: "/proc/sys/kernel/ngroups_max", Value: 1}
	if log, err := apply(sealed); err != nil || !strings.Contains(log, "level=WARN") {
		t.Errorf("read-only: error %v, log %q", err, log)
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	if _, err := apply(sysctl("nf_conntrack_tcp_be_liberal", -5)); err == nil || !strings.Contains(err.Error(), "net.netfilter.nf_conntrack_tcp_be_liberal") {
		t.Errorf("a value that the kernel refuses: error %v", err)
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestProcessors(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-3": 4, "0-3,8,10-11": 7} {
		if got, err := countList(list); got != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", list, got, err, want)
		}
	}
	for _, list := range []string{"", "x", "0-"} {
		if n, err := countList(list); err == nil {
			t.Errorf("%q: %d", list, n)
		}
	}
	if n := Processors(); n < runtime.NumCPU() {
		t.Errorf("%d processors on a node where this process has %d", n, runtime.NumCPU())
	}
}
