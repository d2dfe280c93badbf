package metrics

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// EventCounter is the data path's counters by name, as they are now.
type EventCounter interface {
	Counters() (map[string]uint64, error)
}

// Table is how full a table of the data path is.
type Table struct {
	Name           string
	Entries, Limit uint64
}

// TableLister knows how full the tables are now.
type TableLister interface {
	Tables() ([]Table, error)
}

// RegisterEvents exports c's counters. They are asked for when somebody scrapes; an error leaves them out
// of that scrape and is counted there. To be called once.
func (m *Metrics) RegisterEvents(c EventCounter) { m.registry.MustRegister(events{c}) }

// RegisterTables exports how full the tables are, in the manner of [Metrics.RegisterEvents].
func (m *Metrics) RegisterTables(l TableLister) { m.registry.MustRegister(tables{l}) }

var (
	eventsDesc  = prometheus.NewDesc("svcproxy_datapath_events_total", "What the kernel programs did, by event (enum stat in bpf/types.h).", []string{"event"}, nil)
	entriesDesc = prometheus.NewDesc("svcproxy_table_entries", "Entries in use in a table of the data path.", []string{"table"}, nil)
	limitDesc   = prometheus.NewDesc("svcproxy_table_limit", "The most entries that a table of the data path can have.", []string{"table"}, nil)
)

type events struct{ EventCounter }

func (events) Describe(ch chan<- *prometheus.Desc) { ch <- eventsDesc }

func (e events) Collect(ch chan<- prometheus.Metric) {
	counters, err := e.Counters()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(eventsDesc, fmt.Errorf("read data path counters: %w", err))
		return
	}
	for event, n := range counters {
		ch <- prometheus.MustNewConstMetric(eventsDesc, prometheus.CounterValue, float64(n), event)
	}
}

type tables struct{ TableLister }

func (tables) Describe(ch chan<- *prometheus.Desc) {
	ch <- entriesDesc
	ch <- limitDesc
}

func (t tables) Collect(ch chan<- prometheus.Metric) {
	list, err := t.Tables()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(entriesDesc, fmt.Errorf("read table sizes: %w", err))
		return
	}
	for _, table := range list {
		ch <- prometheus.MustNewConstMetric(entriesDesc, prometheus.GaugeValue, float64(table.Entries), table.Name)
		ch <- prometheus.MustNewConstMetric(limitDesc, prometheus.GaugeValue, float64(table.Limit), table.Name)
	}
}
