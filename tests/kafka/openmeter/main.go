// SPDX-License-Identifier: Apache-2.0

// Reads messages as `kcat -J` prints them with OpenMeter's own code: the payload type of its Kafka
// topics, its way back to a CloudEvent, and its parser of a meter that sums a unit. Prints the sum.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/openmeterio/openmeter/openmeter/ingest/kafkaingest/serializer"
	"github.com/openmeterio/openmeter/openmeter/meter"
)

var property = "$.units.requests"

// What a user of OpenMeter configures for tallyd.
var requests = meter.Meter{
	Key:           "requests",
	Aggregation:   meter.MeterAggregationSum,
	EventType:     "io.tallyd.usage.v1",
	ValueProperty: &property,
	GroupBy:       map[string]string{"route": "$.route", "customer": "$.customer_id"},
}

type message struct {
	Headers []string `json:"headers"`
	Payload string   `json:"payload"`
}

func namespace(headers []string) string {
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "namespace" {
			return headers[i+1]
		}
	}
	return ""
}

func read(line []byte) (float64, error) {
	var m message
	var payload serializer.CloudEventsKafkaPayload
	if err := json.Unmarshal(line, &m); err != nil {
		return 0, err
	}
	if namespace(m.Headers) == "" {
		return 0, errors.New("no namespace: OpenMeter drops it")
	}
	if err := json.Unmarshal([]byte(m.Payload), &payload); err != nil {
		return 0, err
	}
	event, err := serializer.FromKafkaPayloadToCloudEvents(payload)
	if err != nil {
		return 0, err
	}
	if err := event.Validate(); err != nil {
		return 0, err
	}
	if event.Type() != requests.EventType {
		return 0, fmt.Errorf("type %s", event.Type())
	}
	parsed, err := meter.ParseEventString(requests, payload.Data)
	if err != nil {
		return 0, err
	}
	if parsed.GroupBy["route"] == "" {
		return 0, errors.New("no route to group by")
	}
	return *parsed.Value, nil
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	sum := 0.0
	for in.Scan() {
		value, err := read(in.Bytes())
		if err != nil {
			fmt.Fprintf(os.Stderr, "%v: %.200s\n", err, in.Text())
			os.Exit(1)
		}
		sum += value
	}
	fmt.Println(int64(sum))
}
