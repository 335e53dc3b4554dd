/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The status page: page.html as it stands in the source, one file with its styles and its script, which
 * asks /live.json once a second. It loads nothing else, and its policy lets it load nothing else: script
 * and styles are named in it by their SHA-256, so nothing that gets into the page by mistake is run.
 */
#ifndef TALLY_OBSERVE_PAGE_H
#define TALLY_OBSERVE_PAGE_H

/* Both stay as they are. */
const char *tally_page_html(void);
const char *tally_page_policy(void);

#endif
