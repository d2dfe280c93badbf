package metrics

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
)

// datapath is counters and tables from memory.
type datapath struct {
	counters map[string]uint64
	tables   []Table
	err      error
}

func (d *datapath) Counters() (map[string]uint64, error) { return d.counters, d.err }
func (d *datapath) Tables() ([]Table, error)             { return d.tables, d.err }

// newUsed returns metrics of which each has been observed.
func newUsed() (*Metrics, *datapath) {
	m := New("v1.2.3", "abcdef")
	d := &datapath{counters: map[string]uint64{"connect": 5, "flow_new": 1 << 40}, tables: []Table{{"frontends", 3, 1 << 22}}}
	m.RegisterEvents(d)
	m.RegisterTables(d)
	m.ObserveSync(true, 5*time.Millisecond)
	m.ObserveSync(false, time.Millisecond)
	m.QueuedSync(time.Unix(1000, 500_000_000))
	m.Synced(time.Unix(1001, 0))
	m.ObserveProgramming(corev1.IPv6Protocol, 2*time.Second)
	m.EndpointChanges(3, 2)
	m.EndpointChanges(1, 0)
	m.ServiceChanges(7, 4)
	m.NoLocalEndpoints(InternalPolicy, corev1.IPv4Protocol, 2)
	m.NoLocalEndpoints(ExternalPolicy, corev1.IPv6Protocol, 1)
	m.ConntrackReconciled(corev1.IPv4Protocol, 3*time.Millisecond, 2)
	m.ConntrackReconciled(corev1.IPv4Protocol, 3*time.Millisecond, 0)
	m.ConntrackReconciled(corev1.IPv6Protocol, 3*time.Millisecond, 0)
	m.HealthAnswered("/healthz", 503)
	m.HealthAnswered("/healthz", 200)
	m.HealthAnswered("/livez", 200)
	m.TableWrites("slots", 12)
	m.TableWrites("slots", 1)
	m.ObjectRejected("Service")
	m.Drifted("pins")
	m.Audited()
	return m, d
}

// TestNames compares names, types, labels and buckets with testdata/metrics.txt, which was written from
// parity §7.4.
func TestNames(t *testing.T) {
	m, _ := newUsed()
	gathered, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, family := range gathered {
		name := family.GetName()
		if !strings.HasPrefix(name, "kubeproxy_") && !strings.HasPrefix(name, "svcproxy_") {
			continue
		}
		got.WriteString(describe(family))
	}
	want, err := os.ReadFile("testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func describe(family *dto.MetricFamily) string {
	metric := family.GetMetric()[0]
	words := []string{family.GetName(), strings.ToLower(family.GetType().String())}
	var labels []string
	for _, l := range metric.GetLabel() {
		labels = append(labels, l.GetName())
	}
	if len(labels) > 0 {
		words = append(words, strings.Join(labels, ","))
	}
	text := strings.Join(words, " ") + "\n"
	if h := metric.GetHistogram(); h != nil {
		text += "  le"
		for _, b := range h.GetBucket() {
			text += fmt.Sprintf(" %g", b.GetUpperBound())
		}
		text += "\n"
	}
	return text
}

func TestValues(t *testing.T) {
	m, _ := newUsed()
	want := `
# HELP kubeproxy_conntrack_reconciler_deleted_entries_total Stale UDP entries deleted from nf_conntrack.
# TYPE kubeproxy_conntrack_reconciler_deleted_entries_total counter
kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"} 2
kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv6"} 0
# HELP kubeproxy_proxy_healthz_total Answers to /healthz by HTTP status.
# TYPE kubeproxy_proxy_healthz_total counter
kubeproxy_proxy_healthz_total{code="200"} 1
kubeproxy_proxy_healthz_total{code="503"} 1
# HELP kubeproxy_proxy_livez_total Answers to /livez by HTTP status.
# TYPE kubeproxy_proxy_livez_total counter
kubeproxy_proxy_livez_total{code="200"} 1
# HELP kubeproxy_sync_proxy_rules_endpoint_changes_pending Changes of EndpointSlices not yet in the kernel.
# TYPE kubeproxy_sync_proxy_rules_endpoint_changes_pending gauge
kubeproxy_sync_proxy_rules_endpoint_changes_pending 0
# HELP kubeproxy_sync_proxy_rules_endpoint_changes_total Changes of EndpointSlices seen.
# TYPE kubeproxy_sync_proxy_rules_endpoint_changes_total counter
kubeproxy_sync_proxy_rules_endpoint_changes_total 4
# HELP kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds When changes were last asked to be written.
# TYPE kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds gauge
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 1000.5
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv6"} 1000.5
# HELP kubeproxy_sync_proxy_rules_last_timestamp_seconds When changes were last written successfully.
# TYPE kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 1001
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv6"} 1001
# HELP kubeproxy_sync_proxy_rules_no_local_endpoints_total Service ports with a Local traffic policy and no endpoint on this node.
# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge
kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 2
kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv6",traffic_policy="external"} 1
# HELP kubeproxy_sync_proxy_rules_service_changes_pending Changes of Services not yet in the kernel.
# TYPE kubeproxy_sync_proxy_rules_service_changes_pending gauge
kubeproxy_sync_proxy_rules_service_changes_pending 4
# HELP kubeproxy_sync_proxy_rules_service_changes_total Changes of Services seen.
# TYPE kubeproxy_sync_proxy_rules_service_changes_total counter
kubeproxy_sync_proxy_rules_service_changes_total 7
# HELP svcproxy_audits_total Times that the tables were compared with what they should say.
# TYPE svcproxy_audits_total counter
svcproxy_audits_total 1
# HELP svcproxy_datapath_events_total What the kernel programs did, by event (enum stat in bpf/types.h).
# TYPE svcproxy_datapath_events_total counter
svcproxy_datapath_events_total{event="connect"} 5
svcproxy_datapath_events_total{event="flow_new"} 1.099511627776e+12
# HELP svcproxy_drift_total What somebody else had changed or removed in the kernel, and was put back: entries of a table, programs, pins.
# TYPE svcproxy_drift_total counter
svcproxy_drift_total{in="pins"} 1
# HELP svcproxy_rejected_objects_total Objects left out because they are invalid.
# TYPE svcproxy_rejected_objects_total counter
svcproxy_rejected_objects_total{kind="Service"} 1
# HELP svcproxy_table_entries Entries in use in a table of the data path.
# TYPE svcproxy_table_entries gauge
svcproxy_table_entries{table="frontends"} 3
# HELP svcproxy_table_limit The most entries that a table of the data path can have.
# TYPE svcproxy_table_limit gauge
svcproxy_table_limit{table="frontends"} 4.194304e+06
# HELP svcproxy_table_writes_total Entries written to or deleted from the data path's tables.
# TYPE svcproxy_table_writes_total counter
svcproxy_table_writes_total{table="slots"} 13
`
	var names []string
	for line := range strings.Lines(want) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			names = append(names, strings.Fields(rest)[0])
		}
	}
	if err := testutil.GatherAndCompare(m.registry, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

// A full pass and a partial one are told apart, and both count as passes. Passes over nf_conntrack are others.
func TestObserveSync(t *testing.T) {
	m := New("", "")
	m.ObserveSync(true, 5*time.Millisecond)
	m.ObserveSync(false, time.Millisecond)
	m.ObserveSync(false, 3*time.Millisecond)
	for _, f := range families {
		m.ConntrackReconciled(f, 7*time.Millisecond, 0)
	}
	gathered, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, family := range gathered {
		for _, metric := range family.GetMetric() {
			if h := metric.GetHistogram(); h != nil && strings.HasPrefix(family.GetName(), "kubeproxy_") {
				got[family.GetName()+" "+metric.GetLabel()[0].GetValue()] = fmt.Sprintf("%d %.3f", h.GetSampleCount(), h.GetSampleSum())
			}
		}
	}
	want := map[string]string{}
	for _, f := range []string{" IPv4", " IPv6"} {
		want["kubeproxy_sync_proxy_rules_duration_seconds"+f] = "3 0.009"
		want["kubeproxy_conntrack_reconciler_sync_duration_seconds"+f] = "1 0.007"
		want["kubeproxy_sync_full_proxy_rules_duration_seconds"+f] = "1 0.005"
		want["kubeproxy_sync_partial_proxy_rules_duration_seconds"+f] = "2 0.004"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("histograms (-want +got):\n%s", diff)
	}
}

// Our own names are lint-clean; kube-proxy's are what they are.
func TestLint(t *testing.T) {
	m, _ := newUsed()
	problems, err := testutil.GatherAndLint(m.registry, "svcproxy_build_info", "svcproxy_datapath_events_total",
		"svcproxy_rejected_objects_total", "svcproxy_table_entries", "svcproxy_table_limit", "svcproxy_table_writes_total")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// The stages of a change: its wait, the pass that takes it, and both together.
func TestObserveStages(t *testing.T) {
	m := New("", "")
	m.ObserveTaken(100 * time.Microsecond)
	m.ObserveSync(false, 200*time.Microsecond)
	m.ObserveWritten(300 * time.Microsecond)
	gathered, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range gathered {
		if name, ok := strings.CutPrefix(family.GetName(), "svcproxy_sync_"); ok {
			got[name] = family.GetMetric()[0].GetHistogram().GetSampleSum()
		}
	}
	want := map[string]float64{"wait_duration_seconds": 0.0001, "pass_duration_seconds": 0.0002, "change_duration_seconds": 0.0003}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}
