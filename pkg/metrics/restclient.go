package metrics

import (
	"strings"

	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/restclient" // tells client-go to count
)

// restClient is what client-go counts of its requests, under the names that all of Kubernetes has: rest_client_*.
// Kubernetes keeps these in a registry of its own, with much that we have, or are not, beside them.
type restClient struct{}

func (restClient) Gather() ([]*dto.MetricFamily, error) {
	all, err := legacyregistry.DefaultGatherer.Gather()
	var ours []*dto.MetricFamily
	for _, family := range all {
		if strings.HasPrefix(family.GetName(), "rest_client_") {
			ours = append(ours, family)
		}
	}
	return ours, err
}
