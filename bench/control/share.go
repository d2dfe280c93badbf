package main

import (
	"context"
	"fmt"
	"net"
	"net/http"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// shareMetric is the histogram of the time from an event's being decoded to its being in the kernel.
const shareMetric = "svcproxy_sync_change_duration_seconds"

// histogram is a cumulative one, by upper bound.
type histogram []*dto.Bucket

// ownShare reads the agent's own share from its metrics; nil: it tells none.
func (v *variant) ownShare(ctx context.Context, w *world) (histogram, error) {
	if v.metrics == "" {
		return nil, nil
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return w.node.DialContext(ctx, network, addr)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+v.metrics+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if family := families[shareMetric]; family != nil {
		return family.Metric[0].GetHistogram().Bucket, nil
	}
	return nil, nil // an older svcproxy
}

// since is what has come to h since an earlier reading.
func (h histogram) since(earlier histogram) histogram {
	var list histogram
	for i, b := range h {
		n := b.GetCumulativeCount() - earlier[i].GetCumulativeCount()
		list = append(list, &dto.Bucket{UpperBound: b.UpperBound, CumulativeCount: &n})
	}
	return list
}

// quantile is the upper bound of the bucket that it lies in.
func (h histogram) quantile(q float64) float64 {
	total := h[len(h)-1].GetCumulativeCount()
	for _, b := range h {
		if float64(b.GetCumulativeCount()) >= q*float64(total) {
			return b.GetUpperBound()
		}
	}
	return 0
}
