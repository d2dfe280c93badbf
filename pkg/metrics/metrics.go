// Package metrics is what Prometheus sees of this node's proxy: kube-proxy's metrics under kube-proxy's
// names, so that dashboards and alerts keep working, and svcproxy_* for what kube-proxy does not have.
package metrics

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	corev1 "k8s.io/api/core/v1"
)

// Metrics owns a registry. Its methods are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	sync, fullSync, partialSync  *prometheus.HistogramVec
	lastSync, lastQueued         *prometheus.GaugeVec
	programming                  *prometheus.HistogramVec
	wait, pass, change           prometheus.Histogram
	endpointChanges              changes
	serviceChanges               changes
	noLocalEndpoints             *prometheus.GaugeVec
	conntrack                    *prometheus.HistogramVec
	conntrackDeleted             *prometheus.CounterVec
	healthz, livez               *prometheus.CounterVec
	tableWrites, rejectedObjects *prometheus.CounterVec
	drift                        *prometheus.CounterVec
	audits                       prometheus.Counter
}

// changes of one kind of object: seen so far, and not yet written.
type changes struct {
	total   prometheus.Counter
	pending prometheus.Gauge
}

// Both families are written in one pass, so whatever is labelled by family is observed for both.
var families = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}

// New returns the metrics of a program of that version and source revision.
func New(version, revision string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	syncBuckets := prometheus.ExponentialBuckets(0.001, 2, 15)
	m.sync = m.histogram("kubeproxy_sync_proxy_rules_duration_seconds", "Time to write changes to the kernel, in seconds.", syncBuckets)
	m.fullSync = m.histogram("kubeproxy_sync_full_proxy_rules_duration_seconds", "Time to compare everything with the kernel's tables, in seconds.", syncBuckets)
	m.partialSync = m.histogram("kubeproxy_sync_partial_proxy_rules_duration_seconds", "Time to write only what changed, in seconds.", syncBuckets)
	m.programming = m.histogram("kubeproxy_network_programming_duration_seconds", "Time from a change of endpoints in the cluster to its presence in the kernel, in seconds.", programmingBuckets())
	m.lastSync = m.gauges("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When changes were last written successfully.", "ip_family")
	m.lastQueued = m.gauges("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When changes were last asked to be written.", "ip_family")
	m.endpointChanges = m.changes("endpoint", "EndpointSlices")
	m.serviceChanges = m.changes("service", "Services")
	m.noLocalEndpoints = m.gauges("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "Service ports with a Local traffic policy and no endpoint on this node.", "traffic_policy", "ip_family")
	m.conntrack = m.histogram("kubeproxy_conntrack_reconciler_sync_duration_seconds", "Time to look through nf_conntrack for stale UDP entries, in seconds.", syncBuckets)
	m.conntrackDeleted = m.counters("kubeproxy_conntrack_reconciler_deleted_entries_total", "Stale UDP entries deleted from nf_conntrack.", "ip_family")
	m.healthz = m.counters("kubeproxy_proxy_healthz_total", "Answers to /healthz by HTTP status.", "code")
	m.livez = m.counters("kubeproxy_proxy_livez_total", "Answers to /livez by HTTP status.", "code")

	m.tableWrites = m.counters("svcproxy_table_writes_total", "Entries written to or deleted from the data path's tables.", "table")
	m.wait = m.stage("svcproxy_sync_wait_duration_seconds", "Time that a change of a Service has waited, from its event's being decoded, until a pass takes it.")
	m.pass = m.stage("svcproxy_sync_pass_duration_seconds", "Time that a pass over changes takes: model, difference, and writing it to the kernel.")
	m.change = m.stage("svcproxy_sync_change_duration_seconds", "Time from a change's event being decoded to its being in the kernel: our own share of the programming latency.")
	m.rejectedObjects = m.counters("svcproxy_rejected_objects_total", "Objects left out because they are invalid.", "kind")
	m.drift = m.counters("svcproxy_drift_total", "What somebody else had changed or removed in the kernel, and was put back: entries of a table, programs, pins.", "in")
	m.audits = prometheus.NewCounter(prometheus.CounterOpts{Name: "svcproxy_audits_total", Help: "Times that the tables were compared with what they should say."})
	m.registry.MustRegister(m.audits)
	m.gauges("svcproxy_build_info", "Always 1; the labels say what is running.", "version", "revision", "go_version").
		WithLabelValues(version, revision, runtime.Version()).Set(1)
	return m
}

// programmingBuckets are those of the network programming latency SLO: seconds up to one minute, then
// coarser, up to five.
func programmingBuckets() []float64 {
	b := []float64{0.25, 0.5}
	b = append(b, prometheus.LinearBuckets(1, 1, 59)...)
	b = append(b, prometheus.LinearBuckets(60, 5, 12)...)
	return append(b, prometheus.LinearBuckets(120, 30, 7)...)
}

var stageBuckets = []float64{50e-6, 100e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3,
	10e-3, 15e-3, 20e-3, 30e-3, 50e-3, 100e-3, 250e-3, 1, 5}

// stage is a histogram of what takes microseconds.
func (m *Metrics) stage(name, help string) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: stageBuckets})
	m.registry.MustRegister(h)
	return h
}

func (m *Metrics) histogram(name, help string, buckets []float64) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{"ip_family"})
	m.registry.MustRegister(h)
	return h
}

func (m *Metrics) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) changes(kind, what string) changes {
	c := changes{
		total: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubeproxy_sync_proxy_rules_" + kind + "_changes_total", Help: "Changes of " + what + " seen."}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kubeproxy_sync_proxy_rules_" + kind + "_changes_pending", Help: "Changes of " + what + " not yet in the kernel."}),
	}
	m.registry.MustRegister(c.total, c.pending)
	return c
}

// ObserveSync says how long one pass took, successful or not; full: it compared everything.
func (m *Metrics) ObserveSync(full bool, d time.Duration) {
	m.pass.Observe(d.Seconds())
	kind := m.partialSync
	if full {
		kind = m.fullSync
	}
	for _, f := range families {
		m.sync.WithLabelValues(string(f)).Observe(d.Seconds())
		kind.WithLabelValues(string(f)).Observe(d.Seconds())
	}
}

// ObserveTaken says how long a change of a Service has waited for the pass that takes it.
func (m *Metrics) ObserveTaken(waited time.Duration) { m.wait.Observe(waited.Seconds()) }

// ObserveWritten says how old a change was when it was in the kernel.
func (m *Metrics) ObserveWritten(age time.Duration) { m.change.Observe(age.Seconds()) }

// QueuedSync says that a pass was asked for.
func (m *Metrics) QueuedSync(now time.Time) { setTime(m.lastQueued, now) }

// Synced says that a pass has succeeded.
func (m *Metrics) Synced(now time.Time) { setTime(m.lastSync, now) }

func setTime(g *prometheus.GaugeVec, t time.Time) {
	for _, f := range families {
		g.WithLabelValues(string(f)).Set(float64(t.UnixNano()) / 1e9)
	}
}

// ObserveProgramming says how long after its trigger a change of endpoints was in the kernel.
func (m *Metrics) ObserveProgramming(family corev1.IPFamily, d time.Duration) {
	m.programming.WithLabelValues(string(family)).Observe(d.Seconds())
}

// EndpointChanges says that n more changes of EndpointSlices were seen, and how many now wait.
func (m *Metrics) EndpointChanges(n, pending int) { m.endpointChanges.seen(n, pending) }

// ServiceChanges says that n more changes of Services were seen, and how many now wait.
func (m *Metrics) ServiceChanges(n, pending int) { m.serviceChanges.seen(n, pending) }

func (c changes) seen(n, pending int) {
	c.total.Add(float64(n))
	c.pending.Set(float64(pending))
}

// TrafficPolicy is which policy of a Service is Local.
type TrafficPolicy string

const (
	InternalPolicy TrafficPolicy = "internal"
	ExternalPolicy TrafficPolicy = "external"
)

// NoLocalEndpoints says how many Service ports have the policy Local and no endpoint here.
func (m *Metrics) NoLocalEndpoints(policy TrafficPolicy, family corev1.IPFamily, ports int) {
	m.noLocalEndpoints.WithLabelValues(string(policy), string(family)).Set(float64(ports))
}

// ConntrackReconciled says how long it took to look through a family's entries of nf_conntrack, and how many
// of them were deleted.
func (m *Metrics) ConntrackReconciled(family corev1.IPFamily, d time.Duration, deleted int) {
	m.conntrack.WithLabelValues(string(family)).Observe(d.Seconds())
	m.conntrackDeleted.WithLabelValues(string(family)).Add(float64(deleted))
}

// HealthAnswered counts an answer to /healthz or /livez; the signature is that of health.Options.Answered.
func (m *Metrics) HealthAnswered(path string, code int) {
	counter := m.livez
	if path == "/healthz" {
		counter = m.healthz
	}
	counter.WithLabelValues(strconv.Itoa(code)).Inc()
}

// TableWrites counts n entries of a table written or deleted.
func (m *Metrics) TableWrites(table string, n int) {
	m.tableWrites.WithLabelValues(table).Add(float64(n))
}

// ObjectRejected counts an object, of that kind, that is left out because it is invalid.
func (m *Metrics) ObjectRejected(kind string) { m.rejectedObjects.WithLabelValues(kind).Inc() }

// Drifted counts something that somebody else had changed in a table, in programs or in pins.
func (m *Metrics) Drifted(in string) { m.drift.WithLabelValues(in).Inc() }

// Audited counts an audit that has ended.
func (m *Metrics) Audited() { m.audits.Inc() }
