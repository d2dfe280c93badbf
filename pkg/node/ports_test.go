package node

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestReservePorts(t *testing.T) {
	everyOther := make([]string, 3000) // 15 kB: more than a page, and than os.ReadFile would read
	for i := range everyOther {
		everyOther[i] = fmt.Sprint(1001 + 2*i)
	}
	long := strings.Join(everyOther, ",")
	tests := []struct {
		name        string
		others      string
		first, last uint16
		reserved    string
		released    string
	}{
		{"nothing reserved", "", 61000, 64999, "61000-64999", ""},
		{"beside others", "8080,9000-9100", 61000, 64999, "8080,9000-9100,61000-64999", "8080,9000-9100"},
		{"one port", "8080", 8081, 8081, "8080-8081", "8080"},
		{"up to the last port", "1", 65000, 65535, "1,65000-65535", "1"},
		{"overlapping others", "62000-62010,64000-65100", 61000, 64999, "61000-65100", "65000-65100"},
		{"inside others", "20000-30000", 25000, 25999, "20000-30000", "20000-24999,26000-30000"},
		{"a long list", long, 61000, 64999, long + ",61000-64999", long},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			newNS(t)
			writeSysctl(t, reservedPorts, tt.others)
			for range 2 { // the second time changes nothing
				must(t, ReservePorts(tt.first, tt.last))
				checkReserved(t, tt.reserved)
			}
			for range 2 {
				must(t, ReleasePorts(tt.first, tt.last))
				checkReserved(t, tt.released)
			}
		})
	}
}

func TestReservePortsErrors(t *testing.T) {
	tests := []struct {
		name        string
		first, last uint16
		want        []string
	}{
		{"overlaps at the end", 60999, 64999, []string{"60999-64999", "32768-60999", "ip_local_port_range"}},
		{"overlaps at the start", 30000, 32768, []string{"30000-32768", "32768-60999"}},
		{"contains", 1024, 65535, []string{"1024-65535", "32768-60999"}},
		{"reversed", 62000, 61000, []string{"62000-61000"}},
		{"zero", 0, 10, []string{"0-10"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			newNS(t)
			writeSysctl(t, ephemeralPorts, "32768 60999")
			writeSysctl(t, reservedPorts, "8080")
			err := ReservePorts(tt.first, tt.last)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			checkReserved(t, "8080")
		})
	}
	if err := ReleasePorts(62000, 61000); err == nil || !strings.Contains(err.Error(), "62000-61000") {
		t.Errorf("release a reversed range: error %v", err)
	}
}

func checkReserved(t *testing.T, want string) {
	t.Helper()
	text, err := readSysctl(reservedPorts)
	must(t, err)
	if got := strings.TrimSpace(text); got != want {
		t.Errorf("reserved %.200q, want %.200q", got, want)
	}
}

func writeSysctl(t *testing.T, path, value string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(value+"\n"), 0))
}
