package node

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNodePortPolicy(t *testing.T) {
	local := ips("10.0.0.1", "10.0.0.9", "192.168.1.1", "fd00::1", "fd01::1")
	nodeIPs := ips("10.0.0.1", "fd00::1")
	tests := []struct {
		name      string
		entries   []string
		nodeIPs   []string // nil: both
		localhost bool
		want      string
		listen    string
	}{
		{name: "R-5.4 empty", localhost: true,
			want: "10.0.0.1 10.0.0.9 127.0.0.1 192.168.1.1 ::1 fd00::1 fd01::1", listen: "0.0.0.0 ::"},
		{name: "R-5.8 localhost off",
			want: "10.0.0.1 10.0.0.9 192.168.1.1 fd00::1 fd01::1", listen: "0.0.0.0 ::"},
		{name: "R-5.11 all", entries: []string{"all", "10.0.0.0/24"}, localhost: true,
			want: "10.0.0.1 10.0.0.9 127.0.0.1 192.168.1.1 ::1 fd00::1 fd01::1", listen: "0.0.0.0 ::"},
		{name: "R-5.2 a family without CIDR is open", entries: []string{"10.0.0.0/24"}, localhost: true,
			want: "10.0.0.1 10.0.0.9 ::1 fd00::1 fd01::1", listen: "10.0.0.1 10.0.0.9 ::"},
		{name: "R-5.2 /0 beats other CIDRs", entries: []string{"10.0.0.0/32", "0.0.0.0/0", "fd00::/16"}, localhost: true,
			want: "10.0.0.1 10.0.0.9 127.0.0.1 192.168.1.1 fd00::1", listen: "0.0.0.0 fd00::1"},
		{name: "R-5.6 host bits in a CIDR", entries: []string{"10.0.0.77/24", "fd00::5/64"}, localhost: true,
			want: "10.0.0.1 10.0.0.9 fd00::1", listen: "10.0.0.1 10.0.0.9 fd00::1"},
		{name: "R-5.8 loopback CIDRs", entries: []string{"127.0.0.0/8", "::1/128"}, localhost: true,
			want: "127.0.0.1 ::1", listen: "127.0.0.1 ::1"},
		{name: "R-5.8 loopback CIDR without localhost", entries: []string{"127.0.0.0/8", "fd00::/64"},
			want: "fd00::1", listen: "127.0.0.1 fd00::1"},
		{name: "R-5.3 primary", entries: []string{"primary"}, localhost: true,
			want: "10.0.0.1 fd00::1", listen: "10.0.0.1 fd00::1"},
		{name: "R-5.3 primary, IPv6 unknown", entries: []string{"primary"}, nodeIPs: []string{"10.0.0.1"},
			want: "10.0.0.1 fd00::1 fd01::1", listen: "10.0.0.1 ::"},
		{name: "R-5.3 primary, node IP is a loopback", entries: []string{"primary"}, nodeIPs: []string{"127.0.0.1"}, localhost: true,
			want: "10.0.0.1 10.0.0.9 127.0.0.1 192.168.1.1 ::1 fd00::1 fd01::1", listen: "0.0.0.0 ::"},
		{name: "R-5.11 localhost", entries: []string{"localhost"}, want: "127.0.0.1 ::1", listen: "127.0.0.1 ::1"},
		{name: "R-5.11 primary and localhost", entries: []string{"primary", "localhost"},
			want: "10.0.0.1 127.0.0.1 ::1 fd00::1", listen: "10.0.0.1 127.0.0.1 ::1 fd00::1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			policy, err := ParseNodePortPolicy(tt.entries)
			if err != nil {
				t.Fatal(err)
			}
			nodes := nodeIPs
			if tt.nodeIPs != nil {
				nodes = ips(tt.nodeIPs...)
			}
			want := ips(strings.Fields(tt.want)...)
			if diff := cmp.Diff(want, policy.Addresses(local, nodes, tt.localhost), compareAddrs); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			listen := ips(strings.Fields(tt.listen)...)
			if diff := cmp.Diff(listen, policy.ListenAddresses(local, nodes), compareAddrs); diff != "" {
				t.Errorf("listen addresses (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNodePortPolicyErrors(t *testing.T) {
	tests := []struct {
		name    string
		entries []string
		want    []string
	}{
		{"R-5.1 primary and a CIDR", []string{"10.0.0.0/8", "primary"}, []string{"nodePortAddresses[1]", "can't use both 'primary' and CIDRs"}},
		{"an address", []string{"10.0.0.1"}, []string{`nodePortAddresses[0]: "10.0.0.1"`}},
		{"several", []string{"10.0.0.0/33", "fd00::/64", ""}, []string{`[0]: "10.0.0.0/33"`, `[2]: ""`}},
		{"mapped", []string{"::ffff:10.0.0.0/104"}, []string{`"::ffff:10.0.0.0/104"`}},
		{"upper case", []string{"Primary"}, []string{`"Primary"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseNodePortPolicy(tt.entries)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}
